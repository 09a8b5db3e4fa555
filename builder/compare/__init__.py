"""Which functions and data really changed: correlation, then comparison by meaning."""

from builder.compare.atoms import Atom
from builder.compare.comparison import Comparison, compare
from builder.compare.verdict import Difference, Verdict
from builder.compare.view import View

__all__ = ["Atom", "Comparison", "Difference", "Verdict", "View", "compare"]

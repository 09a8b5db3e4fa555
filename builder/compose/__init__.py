"""What travels, why it might not, and what it is bound to."""

from builder.compose.macros import Macros, read_macros
from builder.compose.refusals import Judged, judge
from builder.compose.selection import Role, Selection, select

__all__ = ["Judged", "Macros", "Role", "Selection", "judge", "read_macros", "select"]

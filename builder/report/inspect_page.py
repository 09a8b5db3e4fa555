"""What a module contains as a page, and what differs between two."""

from __future__ import annotations

from builder.binary.inspection import Inspection, ModuleDifference
from builder.report import inspect
from builder.report.pages import page


def render_inspection_page(
    found: Inspection, old: Inspection | None = None, differs: ModuleDifference | None = None
) -> str:
    """The page of one module, or (with `old` and `differs`) of the second of two, with what it does otherwise."""
    return page("inspect.html.j2", found=found, old=old, differs=differs, told=inspect)

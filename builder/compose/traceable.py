"""Which functions can be redirected: those with an ftrace location."""

from __future__ import annotations

from builder.binary import tables
from builder.compare import Atom, View

_LOCATIONS = "__mcount_loc"
# Where no call of __fentry__ marks the place, these do; elsewhere they are the padding that call depth tracking
# wants before each function (CONFIG_CALL_PADDING, x86 since 6.2), traceable or not.
_PATCHABLE = "__patchable_function_entries"


def has_fentry(view: View, atom: Atom) -> bool:
    """Whether ftrace knows the function (an entry in its table, or a call of __fentry__ at the start)."""
    if any(atom in view.owned(row) for row in tables.TABLES if _locates(view, row.name)):
        return True
    return any(
        view.obj.symbols[r.symbol].name == view.arch.fentry
        for r in view.relocations_in(atom.section.index, atom.entry, atom.entry + view.arch.entry_reach)
    )


def file_has_fentry(view: View) -> bool:
    """Whether anything in the object is traceable: whole files are built without (CC_FLAGS_FTRACE removed)."""
    if any(_locates(view, name) for name in (_LOCATIONS, _PATCHABLE) if name in view.obj.by_name):
        return True
    return any(s.name == view.arch.fentry for s in view.obj.symbols)


def _locates(view: View, table: str) -> bool:
    return table == _LOCATIONS or (table == _PATCHABLE and not view.arch.fentry)

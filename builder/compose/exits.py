"""The code that runs when a module is unloaded (`__exit`), shipped beside what else ships.

Nothing can redirect it, for it is notrace. But the kernel calls it by a pointer that it reads when the module goes
(`exit` of struct module, delete_module in kernel/module/main.c, v6.1), and that can lead to a new version: a copy,
with all `__exit` functions from the module's own down to what changed. Whoever else calls one of these keeps the change
from being shipped, as does code that is built into the kernel, which is never unloaded.
"""

from __future__ import annotations

from builder.binary import ours
from builder.compare import Atom, Comparison, View

_SECTION = ".exit.text"


def is_exit(atom: Atom) -> bool:
    """Whether code runs only when a module is unloaded."""
    return atom.section.name.startswith(_SECTION)


def is_built_in(view: View) -> bool:
    """Whether an object is part of the kernel itself: it names its exit code, which never runs, or its initcalls in a
    section (include/linux/init.h, module.h)."""
    return any(s.name.startswith((".exitcall", ".initcall")) for s in view.obj.sections)


def module_exit(view: View) -> Atom | None:
    """The function that the kernel calls when the module is unloaded, where it is code for that only."""
    return next((a for a in view.functions if is_exit(a) and ours.EXIT in a.names), None)


def carried(comparison: Comparison, changed: frozenset[Atom]) -> tuple[Atom, ...]:
    """All of `changed`, which are exit code, and the exit functions that lead to them, the module's own first; none
    where one of them can be reached by another way."""
    root = module_exit(comparison.new)
    if root is None or not changed or comparison.correlation.twins.get(root) is not module_exit(comparison.old):
        return ()
    found, work = dict.fromkeys(changed), list(changed)
    while work:
        atom = work.pop()
        for user in _users(comparison.new, atom):
            if not user.is_function or not is_exit(user):
                return ()
            if user not in found:
                found[user] = None
                work.append(user)
    if root not in found or any(atom not in comparison.correlation.twins for atom in found):
        return ()
    return (root, *(atom for atom in found if atom is not root))


def _users(view: View, atom: Atom) -> list[Atom]:
    """Who leads to a function; what is for the start is over, and what only keeps a linker from dropping it is none."""
    return [
        other
        for other in view.atoms
        if other is not atom
        and not other.section.name.startswith((".init.", ".exit.data", ".discard", "_kprobe_blacklist"))
        and any(target.atom is atom for _, target in view.leads_of(other))
    ]

"""Functions that end with a jump to a copy: a task that sleeps in the copy has them no longer on its stack.

Livepatch ends when no task's stack has a replaced function or its new version (klp_check_stack, kernel/livepatch/
transition.c, v6.1). A copy is none of these; one that was called is seen by its caller, one that was jumped to is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder.compare import Atom, View
from builder.compose.outcome import Diff
from builder.errors import Refusal


def to_copies(diffs: Sequence[Diff], copies: Sequence[tuple[int, Atom]]) -> Iterator[tuple[int, Refusal]]:
    """A warning for each function that ends so, with the number of its pair; `copies` come with theirs."""
    sleeping = [atom for number, atom in copies if _may_sleep(diffs[number].selection.view, atom)]
    names = {name: atom for atom in sleeping if atom.is_global for name in atom.names}
    for number, diff in enumerate(diffs) if sleeping else ():
        view = diff.selection.view
        for user in diff.selection.functions:
            for r, target in view.leads_of(user):
                copy = target.atom if target.atom in sleeping else names.get(target.symbol.name)
                insn = view.instruction_at(user, r.offset) if copy is not None and target.atom is not user else None
                if copy is not None and insn is not None and insn.is_jump:
                    yield number, _warning(user, copy)


def _warning(user: Atom, copy: Atom) -> Refusal:
    return Refusal(
        "copy-by-jump",
        user.name,
        user.section.name,
        f"{user.name} ends with a jump to the new {copy.name}: a task that sleeps there does not keep the livepatch "
        "from being taken out, as one in a function that was replaced does",
        f"take the module out of memory only when nobody can be asleep in {copy.name}",
        fatal=False,
    )


def _may_sleep(view: View, atom: Atom) -> bool:
    """Whether a function calls anything; the call of ftrace at its start is none."""
    for insn in view.instructions(atom):
        leads = [target.name for _, target in view.references(atom, insn)]
        if (insn.is_call and view.arch.fentry not in leads) or (insn.is_jump and leads):
            return True
    return False

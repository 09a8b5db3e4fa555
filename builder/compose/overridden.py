"""Weak functions that the kernel has another definition of: their code is linked away and never runs.

A weak definition that is the one in use stays weak in the symbol table (`W` in
kallsyms, STB_WEAK in a module); one that a strong definition of another object
overrode leaves that definition's symbol, which is not. So the symbol tells both
apart from code of another source, which is the refusal `run-pre-mismatch`.
"""

from __future__ import annotations

from builder.binary import elf
from builder.compare import Atom
from builder.compose.outcome import Diff
from builder.compose.owner import Objects, find_owner
from builder.compose.reselect import reselected
from builder.compose.running import Running
from builder.errors import Allowed, Refusal, RefusedError


def is_overridden(old: Atom, running: Running) -> bool:
    """Whether `old` is weak and what runs under its name is a definition that is not."""
    if old.symbol.bind != elf.STB_WEAK:
        return False
    found = running.named(old.symbol.name)
    return bool(found) and not any(symbol.is_weak for symbol in found)


def without_overridden(diff: Diff, objects: Objects, inside: str | None, allowed: Allowed) -> Diff:
    """The pair without changed functions that never run in the target, each told by a warning.

    Unchanged where there is none, or where the owner is not plain (binding then says so).
    """
    twins = diff.comparison.correlation.twins
    weak = [a for a in diff.selection.functions if a in twins and twins[a].symbol.bind == elf.STB_WEAK]
    if not weak:
        return diff
    try:
        owner = find_owner(diff, objects, inside)
    except RefusedError:
        return diff
    gone = [atom for atom in weak if is_overridden(twins[atom], owner)]
    if not gone:
        return diff
    noted = [_warning(atom, owner, objects.kernel.release) for atom in gone]
    return reselected(diff, allowed, left_out=diff.selection.left_out | frozenset(gone), noted=noted)


def _warning(atom: Atom, owner: Running, release: str) -> Refusal:
    return Refusal(
        "weak-overridden",
        atom.name,
        atom.section.name,
        f"{atom.name} is weak here and {owner.name} of {release} has another definition of it, "
        "so this one never runs: its change is left out",
        "if the function in use has the same fault, patch it where it is defined (often below arch/)",
        fatal=False,
    )

"""Whether what ships can miss nothing of a start that changed: then its change may be left out, and is only told.

Code for the start (`__init`) has run before the livepatch comes. Its new version would have left something else behind:
in variables, in memory that it reaches by pointers, in what it calls. It can be left out where what ships sees none of
that:

- instruction by instruction both versions do the same, with the same names, but for numbers that they hand to functions
  (a flag, a size): so nothing else is called, and nothing else is stored;
- code that is new to the running kernel uses no variable that the start uses and that can be written, so nothing that
  it has made with those numbers and keeps by name;
- no structure has another layout, which debug information must tell: so nothing that was made at the start is smaller
  than what ships takes it for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from builder.arch import Instruction
from builder.binary import elf
from builder.compare import Atom, View, naming
from builder.compare.storage import is_readonly
from builder.compose.selection import Role, Selection

_NAMED: Final = 4


class _Row(NamedTuple):
    """An instruction, and what it is of."""

    view: View
    atom: Atom
    insn: Instruction


class _Name(NamedTuple):
    """What code refers to, and whether it is a variable that can be written."""

    name: str
    is_variable: bool


def why_not(selection: Selection, atom: Atom) -> str:
    """How what ships could see that a function for the start, of the new object, changed; empty where it cannot."""
    comparison = selection.comparison
    twin = comparison.correlation.twins[atom]
    if any(".debug_info" not in view.obj.by_name for view in (comparison.old, comparison.new)):
        return "without debug information nothing tells whether what ships can see that"
    old = _rows(comparison.old, (twin, *comparison.old_children.get(twin, ())))
    new = _rows(comparison.new, (atom, *comparison.children.get(atom, ())))
    if not _only_hands_on_other_numbers(old, new):
        return "nothing that ships uses that by name, but it may be in memory that it looks at"
    shipped = _rows(comparison.new, [a for a, role in selection.functions.items() if role is not Role.CARRIER])
    seen = {row.name for row in _named(shipped)}
    if both := sorted({row.name for row in _named(new) if row.is_variable and row.name in seen}):
        return f"what ships and it both use {', '.join(both[:_NAMED])}" + (" and more" if len(both) > _NAMED else "")
    return "structures changed, of which it may make some" if _structures_changed(selection) else ""


def _rows(view: View, atoms: Iterable[Atom]) -> list[_Row]:
    return [_Row(view, atom, insn) for atom in atoms for insn in view.instructions(atom) if not insn.is_nop]


def _only_hands_on_other_numbers(old: Sequence[_Row], new: Sequence[_Row]) -> bool:
    """Whether the versions differ in nothing but numbers that are arguments of calls."""
    if len(old) != len(new):
        return False
    for at, (first, second) in enumerate(zip(old, new, strict=True)):
        (form, numbers), (other, others) = _spelled(*first), _spelled(*second)
        if form != other or (numbers != others and not _is_argument(new, at)):
            return False
    return True


def _spelled(view: View, atom: Atom, insn: Instruction) -> tuple[object, tuple[int, ...]]:
    """All of an instruction but its numbers, and those."""
    operation = view.arch.operation(_code(atom, insn))
    goes_to = view.ordinal(atom, insn.target) if insn.target is not None else None
    targets = [target for _, target in view.references(atom, insn) if target.name and not naming.is_label(target.name)]
    names = tuple((naming.family(target.name), target.offset) for target in targets)
    return (operation.form, operation.registers, operation.negated, goes_to, names), operation.constants


def _code(atom: Atom, insn: Instruction) -> bytes:
    return bytes(atom.section.data[insn.offset : insn.end])


def _is_argument(rows: Sequence[_Row], at: int) -> bool:
    """Whether an instruction loads a number into a register that a call uses next, and that it need not preserve.

    No instruction reads it before the call, and none after it in the same block (as where an assembler routine that
    preserves it is called).
    """
    view, atom, insn = rows[at]
    loaded = view.arch.operation(_code(atom, insn))
    if loaded.reads or "memory" in loaded.form or not loaded.writes:
        return False
    called = False
    for view, atom, insn in rows[at + 1 :]:
        operation = view.arch.operation(_code(atom, insn))
        if insn.is_call and not called:
            called = not loaded.writes & ~operation.writes and bool(view.references(atom, insn))
            if not called:
                return False
        elif operation.reads & loaded.writes:
            return False
        elif insn.is_call or insn.is_jump or insn.ends_block or not loaded.writes & ~operation.writes:
            break
    return called


def _named(rows: Iterable[_Row]) -> Iterator[_Name]:
    """What code refers to by name, once for each reference.

    What another object defines is a function where it is called, or where its symbol says so; else a variable.
    """
    for view, atom, insn in rows:
        for _, target in view.references(atom, insn):
            known = target.atom
            if not target.name or target.name == view.arch.fentry or known is atom or naming.is_label(target.name):
                continue
            if known is not None:
                if not naming.is_never_paired(known.name, known.section.name):  # else made for this very place
                    yield _Name(naming.family(known.name), not known.is_function and not is_readonly(known.section))
            elif target.kind == "symbol":
                is_code = insn.is_call or insn.is_jump or target.symbol.type == elf.STT_FUNC
                yield _Name(target.name, not is_code)


def _structures_changed(selection: Selection) -> bool:
    from builder.compare.structs import struct_changes  # here, for it is slow to import and few starts change

    comparison = selection.comparison
    inside = frozenset(a.name.partition(".")[0] for a in comparison.new.functions)
    return any(True for _ in struct_changes(comparison.old.obj, comparison.new.obj, inside))

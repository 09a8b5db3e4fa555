"""Whether what ships can miss nothing of a start that changed: then its change may be left out, and is only told.

Code for the start (`__init`) has run before the livepatch comes. Its new version would have left something else behind:
in variables, in memory that it reaches by pointers, by what it calls. It can be left out where what ships sees none of
that:

- both versions call, and take the address of, the same functions, each as often;
- they use the same variables, and code that is new to the running kernel uses none of those that can be written;
- nothing that they store through pointers is at an offset that such code uses; where only numbers differ that are
  stored, this is asked of those stores alone;
- no structure has another layout, which debug information must tell: so nothing that was made at the start is smaller
  than what ships takes it for.
"""

from __future__ import annotations

from collections import Counter
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
    shipped = _rows(comparison.new, [a for a, role in selection.functions.items() if role is not Role.CARRIER])
    before, after = Counter(_named(old)), Counter(_named(new))
    seen = {row.name for row in _named(shipped)}
    if before != after:
        return "nothing that ships uses that by name"
    if both := sorted({row.name for row in after if row.is_variable and row.name in seen}):
        return f"what ships and it both use {', '.join(both[:_NAMED])}" + (" and more" if len(both) > _NAMED else "")
    used = {offset for row in shipped for offset in _offsets(*row)}
    stores = [row for row in _differing_stores(old, new) or (*old, *new) if _stores(*row)]
    if any(_repeats(*row) or used & set(_offsets(*row)) for row in stores):
        return "it stores through pointers where what ships may look"
    return "structures changed, of which it may make some" if _structures_changed(selection) else ""


def _rows(view: View, atoms: Iterable[Atom]) -> list[_Row]:
    return [_Row(view, atom, insn) for atom in atoms for insn in view.instructions(atom) if not insn.is_nop]


def _differing_stores(old: Sequence[_Row], new: Sequence[_Row]) -> list[_Row]:
    """The stores whose numbers are all that differs; none where more does."""
    found: list[_Row] = []
    for first, second in zip(old, new, strict=False):
        (form, numbers), (other, others) = (_spelled(*row) for row in (first, second))
        if form != other or (numbers != others and not _stores(*second)):
            return []
        found += [first, second] * (numbers != others)
    return found if len(old) == len(new) else []


def _spelled(view: View, atom: Atom, insn: Instruction) -> tuple[object, tuple[int, ...]]:
    """All of an instruction but its numbers, and those."""
    operation = view.arch.operation(_code(atom, insn))
    goes_to = view.ordinal(atom, insn.target) if insn.target is not None else None
    targets = [target for _, target in view.references(atom, insn) if target.name and not naming.is_label(target.name)]
    names = tuple((naming.family(target.name), target.offset) for target in targets)
    return (operation.form, operation.registers, operation.negated, goes_to, names), operation.constants


def _code(atom: Atom, insn: Instruction) -> bytes:
    return bytes(atom.section.data[insn.offset : insn.end])


def _offsets(view: View, atom: Atom, insn: Instruction) -> tuple[int, ...]:
    """What may be the offset of an access of memory by a register that is not the stack's (a number that is stored is
    a constant of the instruction, too)."""
    operation = view.arch.operation(_code(atom, insn))
    if "memory" not in operation.form or operation.stack_read or operation.stack_write:
        return ()
    return operation.constants if not view.relocations_at(atom, insn) else ()


def _stores(view: View, atom: Atom, insn: Instruction) -> bool:
    return view.arch.memory_access(_code(atom, insn)) in ("write", "change") or _repeats(view, atom, insn)


def _repeats(view: View, atom: Atom, insn: Instruction) -> bool:
    """Whether it is of more than one place (`rep stos`)."""
    return view.arch.operation(_code(atom, insn)).repeats


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

"""Calls, and what is given to them: a constant or an address followed to the calls that it is an argument of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from builder.arch import Instruction
from builder.compare.atoms import Atom
from builder.compare.view import Target, View

_MOST_STEPS: Final = 64
"""Instructions between an argument and the call that it is for, on one way."""
_MOST_WAYS: Final = 16


@dataclass(frozen=True)
class Call:
    """A call that `atom` makes, reached on a `way` (indexes of its `rows`, the call's last)."""

    view: View
    atom: Atom
    rows: Sequence[Instruction]
    way: tuple[int, ...]

    @property
    def insn(self) -> Instruction:
        return self.rows[self.way[-1]]

    @cached_property
    def target(self) -> Target | None:
        """What is called, None for an indirect call."""
        return next((target for _, target in self.view.references(self.atom, self.insn)), None)

    @property
    def callee(self) -> str:
        """The name of the function, "" for an indirect call."""
        return self.target.name if self.target is not None else ""

    @property
    def is_local(self) -> bool:
        """Whether a static function is called, of which only this object can know."""
        return self.target is not None and self.target.atom is not None and not self.target.atom.is_global

    def argument(self, number: int) -> Target | None:
        """What a register argument is the address of; None for what is no address, or cannot be told."""
        if not 0 <= number < len(self.view.arch.argument_registers):
            return None
        register = self.view.arch.argument_registers[number]
        for k in self._before():
            row = self.rows[k]
            if register in self.view.arch.writes(self.atom.section.data[row.offset : row.end]):
                found = self.view.references(self.atom, row)
                return found[0][1] if len(found) == 1 else None
        return None

    def _before(self) -> Iterator[int]:
        """Instructions before the call: back along the way, and before its start up to where another begins."""
        yield from reversed(self.way[:-1])
        for k in range(self.way[0] - 1, max(self.way[0] - _MOST_STEPS, -1), -1):
            if self.rows[k].is_call or self.rows[k].ends_block:
                return
            yield k


def given_to(view: View, atom: Atom, insn: Instruction) -> tuple[tuple[Call, int], ...]:
    """Each call that the constant or address which `insn` loads is an argument of, with the argument's number.

    Empty where one way from it leads to no call: then it is, or may be, something else too.
    """
    code = atom.section.data[insn.offset : insn.end]
    register = view.arch.loads_to(code)
    pushed = register is None and view.arch.pushes(code)
    registers = view.arch.argument_registers
    if not pushed and register not in registers:
        return ()
    rows = view.instructions(atom)
    start = next((k for k, row in enumerate(rows) if row.offset == insn.offset), len(rows))
    out = []
    for way in _ways(view, atom, rows, start, register):
        if way is None:
            return ()
        pushes = sum(view.arch.pushes(atom.section.data[rows[k].offset : rows[k].end]) for k in way[1:])
        number = len(registers) + pushes if register is None else registers.index(register)
        out.append((Call(view, atom, rows, way), number))
    return tuple(out)


def _ways(
    view: View, atom: Atom, rows: Sequence[Instruction], start: int, register: str | None
) -> Iterator[tuple[int, ...] | None]:
    """Each way from an instruction to the next call, as indexes of rows; None for one that leads to no call.

    A jump out of the function is a call, too: its last one (or one of its `.cold` part, whose name takes no line).
    A way on which the register is written again before any call is none: there the constant was not used.
    """
    places = {row.offset: k for k, row in enumerate(rows)}
    waiting: list[tuple[int, ...]] = [(start,)]
    count = 0
    while waiting:
        way = waiting.pop()
        here = rows[way[-1]]
        leaves = here.is_jump and bool(view.relocations_at(atom, here))
        if here.is_call or (leaves and here.ends_block):
            yield way
            continue
        count += 1
        if len(way) > _MOST_STEPS or count > _MOST_STEPS * _MOST_WAYS:
            yield None
            return
        if len(way) > 1 and register in view.arch.writes(atom.section.data[here.offset : here.end]):
            continue
        following = []
        if here.is_jump:
            goal = places.get(here.target) if here.target is not None and not leaves else None
            if goal is None or goal in way:
                yield None
                return
            following.append(goal)
        if not here.ends_block:
            following.append(way[-1] + 1)
        if not following or any(k >= len(rows) for k in following):
            yield None
            return
        waiting += [(*way, k) for k in following]

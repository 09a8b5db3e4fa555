"""Fetch arguments and event filters, on a simulated processor (Documentation/trace/kprobetrace.rst, events.rst)."""

from __future__ import annotations

import errno
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from builder.arch import TARGET
from builder.binary import Address
from builder.image.execute import Machine

_TYPE = re.compile(r"[usx](8|16|32|64)")
_CLAUSE = re.compile(r"\s*(\w+)\s*(==|!=|<=|>=|<|>|&)\s*(-?(?:0x[0-9a-fA-F]+|\d+))\s*")
_DEREFERENCE = re.compile(r"([+-]\d+)\((.*)\)")
_OPERATORS: Final[Mapping[str, Callable[[int, int], object]]] = {
    "==": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
    "&": operator.and_,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """`a == 1 && b < 2 || c`: alternatives of clauses (field, operator, value); without any it lets all pass."""

    alternatives: tuple[tuple[tuple[str, str, int], ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """`0` or nothing clears it. OSError (EINVAL) for what it does not know."""
        if text.strip() in ("", "0", "none"):
            return cls()
        rows = []
        for alternative in text.split("||"):
            clauses = []
            for clause in alternative.split("&&"):
                found = _CLAUSE.fullmatch(clause)
                if found is None:
                    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
                clauses.append((found[1], found[2], int(found[3], 0)))
            rows.append(tuple(clauses))
        return cls(tuple(rows))

    def passes(self, values: Mapping[str, int]) -> bool:
        if not self.alternatives:
            return True
        return any(
            all(name in values and _OPERATORS[sign](values[name], value) for name, sign, value in clauses)
            for clauses in self.alternatives
        )

    def __str__(self) -> str:
        rows = (" && ".join(f"{n} {s} {v}" for n, s, v in clauses) for clauses in self.alternatives)
        return " || ".join(rows) or "none"


def fetch(machine: Machine, arguments: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Name and value of each argument that is a number, at the instruction that is about to run."""
    for argument in arguments:
        name, _, rest = argument.partition("=")
        source, colon, kind = rest.rpartition(":")
        if not colon:
            source, kind = rest, "u64"
        found = _TYPE.fullmatch(kind)
        if found is not None:
            yield name, _sized(_value(machine, source), int(found[1]), kind[0] == "s")


def _value(machine: Machine, source: str) -> int:
    if source.startswith("%"):
        register = TARGET.fetch_registers[source[1:]]
        return machine.register(source[1:] if register is None else TARGET.registers[register])
    if source.startswith("$stack"):
        stack = Address(machine.register(TARGET.stack_register))
        number = source.removeprefix("$stack")
        return stack if not number else int.from_bytes(machine.read(stack + 8 * int(number), 8), "little")
    if source.startswith("\\"):
        return int(source[1:], 0)
    if found := _DEREFERENCE.fullmatch(source):
        return int.from_bytes(machine.read(Address(_value(machine, found[2]) + int(found[1])), 8), "little")
    return 0


def _sized(value: int, bits: int, signed: bool) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value

"""What a probe reads, and so what must hold the same where it is to be planted again.

A probe event may fetch values when it fires (Documentation/trace/kprobetrace.rst):
`%di` is a register, `$stack2` a slot of the stack, `+8(%di)` the memory that a register
points to, `$arg1` an argument of the function. Planted in a new version, the event shows
the same only if each register that it reads holds there what it held in the old one. The
instruction map says for each place which registers do (builder/compare/registers.py), as a
mask: bit k is the k-th of `Architecture.registers`, and the bit after the last one, `STACK`,
stands for the slots of the stack. Here the mask is found that an event needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from builder.arch import TARGET

STACK: Final = 1 << len(TARGET.registers)

_REGISTER = re.compile(r"%([a-z][a-z0-9]*)")
_STACK = re.compile(r"\$stack(\d*)")
_ARGUMENT = re.compile(r"\$arg\d+")
_POINTS_TO_STACK = frozenset(map(TARGET.registers.index, (TARGET.stack_register, TARGET.frame_register)))


def needs(arguments: Iterable[str]) -> tuple[int, str | None]:
    """The mask of what must be the same at the new place, and the first thing that can be at none.

    That is None where all can be. It is a register that no map tells of (`%flags`), or an argument by
    its number (`$arg1`), which the kernel only knows at the entry of a function.
    """
    mask = 0
    for argument in arguments:
        fetch = argument.partition("=")[2] or argument
        for name in _REGISTER.findall(fetch):
            if name not in TARGET.fetch_registers:
                return mask, f"%{name}"
            number = TARGET.fetch_registers[name]
            mask |= 1 << number if number is not None else 0
        for slot in _STACK.findall(fetch):
            mask |= 1 << TARGET.registers.index(TARGET.stack_register) | (STACK if slot else 0)
        if _reads_stack(fetch):
            mask |= STACK
        if found := _ARGUMENT.search(fetch):
            return mask, found[0]
    return mask, None


def _reads_stack(fetch: str) -> bool:
    """Whether memory is read through a pointer to the stack: `+8(%sp)`."""
    pointers = re.findall(r"\(%([a-z0-9]+)\)", fetch)
    return "($stack)" in fetch or any(TARGET.fetch_registers.get(name) in _POINTS_TO_STACK for name in pointers)


def names_of(mask: int) -> str:
    """What is in a mask, for a person: `%di, the stack's slots`."""
    return ", ".join(_names_of(mask))


def _names_of(mask: int) -> Iterator[str]:
    for number in range(len(TARGET.registers)):
        if mask >> number & 1:
            yield "%" + next(name for name, k in TARGET.fetch_registers.items() if k == number)
    if mask & STACK:
        yield "the stack's slots"

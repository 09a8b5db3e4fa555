"""What a probe's fetch arguments need of the place that it stands at (Documentation/trace/kprobetrace.rst)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from builder.arch.x86_64 import X86_64

REGISTERS: Final = X86_64.registers
"""In the order of the bits of an instruction map's mask; the bit after them stands for the stack's slots."""
STACK: Final = 1 << len(REGISTERS)

_REGISTER = re.compile(r"%([a-z][a-z0-9]*)")
_STACK = re.compile(r"\$stack(\d*)")
_ARGUMENT = re.compile(r"\$arg\d+")
# regoffset_table of arch/x86/kernel/ptrace.c names the 64-bit registers without their r, and these besides.
_NAMES = {name.removeprefix("r"): k for k, name in enumerate(REGISTERS[:8])}
_NAMES |= {name: k for k, name in enumerate(REGISTERS)}
_ALWAYS = frozenset({"cs", "ss"})


def needs(arguments: Iterable[str]) -> tuple[int, str | None]:
    """The mask of what must be the same at the new place, and what can be at none (None if all can)."""
    mask = 0
    for argument in arguments:
        fetch = argument.partition("=")[2] or argument
        for name in _REGISTER.findall(fetch):
            if name in _NAMES:
                mask |= 1 << _NAMES[name]
            elif name not in _ALWAYS:
                return mask, f"%{name}"
        for number in _STACK.findall(fetch):
            mask |= 1 << REGISTERS.index("rsp") | (STACK if number else 0)
        if "(%sp)" in fetch or "(%rsp)" in fetch or "(%bp)" in fetch or "($stack)" in fetch:
            mask |= STACK
        if found := _ARGUMENT.search(fetch):
            return mask, found[0]
    return mask, None


def names_of(mask: int) -> str:
    """The registers of a mask for a person."""
    rows = [f"%{name.removeprefix('r') if k < 8 else name}" for k, name in enumerate(REGISTERS) if mask >> k & 1]
    return ", ".join([*rows, *(["the stack's slots"] if mask & STACK else [])])

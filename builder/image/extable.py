"""Where code goes on after an access that failed: the exception tables (arch/x86/mm/extable.c, v6.1, v6.12).

`__ex_table`: entries of 12 bytes, s32 to the instruction, s32 to where it goes
on, and how (asm/extable_fixup_types.h): a type, a register, flags and a number.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from builder.arch.x86_64 import X86_64
from builder.errors import UnknownError

if TYPE_CHECKING:
    from builder.image.simulated import SimulatedKernel

ENTRY: Final = struct.Struct("<iii")
_DEFAULT, _FAULT, _UACCESS, _IMM_REG = 1, 2, 3, 17
_SIMPLE: Final = frozenset({_DEFAULT, _FAULT, _UACCESS, 14, 15})
"""With EX_TYPE_DEFAULT_MCE_SAFE and EX_TYPE_FAULT_MCE_SAFE."""
_TELL_TRAP: Final = frozenset({_FAULT, 15})
_PAGE_FAULT: Final = 14
_CLEAR_AX, _CLEAR_DX = 1, 2


def fixup(kernel: SimulatedKernel, address: int) -> tuple[int, dict[str, int]] | None:
    """Where it goes on after a page fault of the instruction at `address`, and what registers then hold.

    None where the kernel would not go on. UnknownError for a kind of entry that is not known here.
    """
    for start, size in _tables(kernel):
        found = _search(kernel, start, size // ENTRY.size, address)
        if found is not None:
            return found
    return None


def _tables(kernel: SimulatedKernel) -> Iterator[tuple[int, int]]:
    """That of the image, then those of the modules; all are sorted."""
    start, stop = kernel.address("__start___ex_table"), kernel.address("__stop___ex_table")
    if start is not None and stop is not None:
        yield start, stop - start
    for module in kernel.modules.values():
        section = module.section("__ex_table")
        if section is not None:
            yield section.address, section.size


def _search(kernel: SimulatedKernel, start: int, count: int, address: int) -> tuple[int, dict[str, int]] | None:
    read = kernel.memory.s32
    at = bisect_left(range(count), address, key=lambda k: start + k * ENTRY.size + read(start + k * ENTRY.size))
    place = start + at * ENTRY.size
    if at == count or place + read(place) != address:
        return None
    data = read(place + 8)
    kind, register, flags, number = data & 0xFF, data >> 8 & 0xF, data >> 12 & 0xF, data >> 16
    known: dict[str, int] = {}
    if flags & _CLEAR_AX:
        known["rax"] = 0
    if flags & _CLEAR_DX:
        known["rdx"] = 0
    if kind == _IMM_REG:
        known[X86_64.registers[register]] = number
    elif kind in _TELL_TRAP:
        known["rax"] = _PAGE_FAULT
    elif kind not in _SIMPLE:
        raise UnknownError(f"exception table entry of type {kind} at {kernel.describe(address)}")
    return place + 4 + read(place + 4), known

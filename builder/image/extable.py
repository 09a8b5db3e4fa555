"""Where code goes on after an access that failed: the exception tables (arch/x86/mm/extable.c, v6.1, v6.12).

`__ex_table`: entries of 12 bytes, s32 to the instruction, s32 to where it goes
on, and how (asm/extable_fixup_types.h): a type, a register, flags and a number.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from builder.arch.x86_64 import X86_64
from builder.binary import Address
from builder.errors import UnknownError
from builder.image.memory import Memory

ENTRY: Final = struct.Struct("<iii")
_DEFAULT, _FAULT, _UACCESS, _IMM_REG = 1, 2, 3, 17
_SIMPLE: Final = frozenset({_DEFAULT, _FAULT, _UACCESS, 14, 15})
"""With EX_TYPE_DEFAULT_MCE_SAFE and EX_TYPE_FAULT_MCE_SAFE."""
_TELL_TRAP: Final = frozenset({_FAULT, 15})
_PAGE_FAULT: Final = 14
_CLEAR_AX, _CLEAR_DX = 1, 2


def fixup(
    memory: Memory, tables: Iterable[range], address: Address, describe: Callable[[Address], str]
) -> tuple[Address, dict[str, int]] | None:
    """Where it goes on after a page fault of the instruction at `address`, and what registers then hold.

    `tables` are the addresses of each table, all sorted, the image's first. None where the kernel would not go on.
    UnknownError, with the address as `describe` spells it, for a kind of entry that is not known here.
    """
    for table in tables:
        place = _search(memory, table, address)
        if place is not None:
            return place + 4 + memory.s32(place + 4), _registers(memory.u32(place + 8), address, describe)
    return None


def _search(memory: Memory, table: range, address: Address) -> Address | None:
    """The entry of the instruction at `address`, None where there is none."""
    read, start, count = memory.s32, Address(table.start), len(table) // ENTRY.size
    at = bisect_left(range(count), address, key=lambda k: start + k * ENTRY.size + read(start + k * ENTRY.size))
    place = start + at * ENTRY.size
    return place if at < count and place + read(place) == address else None


def _registers(data: int, address: Address, describe: Callable[[Address], str]) -> dict[str, int]:
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
        raise UnknownError(f"exception table entry of type {kind} at {describe(address)}")
    return known

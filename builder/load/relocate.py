"""apply_relocate_add: the relocations of x86-64 modules (arch/x86/kernel/module.c, v6.1 to v6.12)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from builder.binary import Address, elf
from builder.errors import LoadError, UncheckedError
from builder.image.memory import U32, U64, Bytes, Memory
from builder.load.module import Placed

# System V psABI for x86-64, table 4.10
NONE, R64, PC32, PLT32, R32, R32S, PC64 = 0, 1, 2, 4, 10, 11, 24
NAMES: Final = {
    NONE: "R_X86_64_NONE", R64: "R_X86_64_64", PC32: "R_X86_64_PC32", PLT32: "R_X86_64_PLT32",
    R32: "R_X86_64_32", R32S: "R_X86_64_32S", PC64: "R_X86_64_PC64",
}  # fmt: skip
_ZERO4: Final = bytes(4)
_ZERO8: Final = bytes(8)
_U32: Final = struct.Struct("<I").pack_into
_U64: Final = struct.Struct("<Q").pack_into


class RelocationTarget(NamedTuple):
    """The section that is relocated: `size` bytes at `at` of `data`, which run at `address`."""

    data: Bytes
    at: int
    address: Address
    size: int

    @classmethod
    def of(cls, memory: Memory, section: Placed) -> RelocationTarget:
        """A section of a module where it lies."""
        if not section.size:
            return cls(bytearray(), 0, section.address, 0)
        region = memory.region(section.address, section.size)
        return cls(region.data, section.address - region.base, section.address, section.size)


class _Relocation(NamedTuple):
    """One that is refused: `value` is what would be written."""

    kind: int
    offset: int
    value: int


def apply_relocations(target: RelocationTarget, table: bytes, values: list[Address], where: str) -> int:
    """Write all relocations of one table; the number written.

    `values` are symbol values by index. S + A and S + A - P as the psABI has them.
    Raises LoadError as the kernel refuses: a target that is not zero, a value
    that does not fit, an unknown type. A target outside the section, which the
    kernel would write, is refused too.
    """
    data, at, address, size = target
    count, offset, kind, symbol, addend, value = 0, 0, 0, 0, 0, 0
    try:
        for offset, kind, symbol, addend in elf.LITTLE.rela.iter_unpack(table):
            value = values[symbol] + addend
            place = at + offset
            if kind == PLT32 or kind == PC32:  # noqa: SIM109 - the hottest line of all
                if data[place : place + 4] != _ZERO4 or offset + 4 > size:
                    raise _refused(target, _Relocation(kind, offset, value), 4, where)
                value -= address + offset
                _U32(data, place, value & U32)
                if (value + 0x80000000) & U64 > U32:
                    raise UncheckedError(f"{NAMES[kind]} at {offset:#x}: a distance of {value:#x} bytes", where=where)
            elif kind == R32S:
                if data[place : place + 4] != _ZERO4 or offset + 4 > size:
                    raise _refused(target, _Relocation(kind, offset, value), 4, where)
                _U32(data, place, value & U32)
                if (value + 0x80000000) & U64 > U32:
                    raise _overflow(kind, value, where)
            elif kind in (R64, PC64):
                if data[place : place + 8] != _ZERO8 or offset + 8 > size:
                    raise _refused(target, _Relocation(kind, offset, value), 8, where)
                _U64(data, place, (value if kind == R64 else value - address - offset) & U64)
            elif kind == R32:
                if data[place : place + 4] != _ZERO4 or offset + 4 > size:
                    raise _refused(target, _Relocation(kind, offset, value), 4, where)
                _U32(data, place, value & U32)
                if value & U64 > U32:
                    raise _overflow(kind, value, where)
            elif kind != NONE:
                raise LoadError(f"Unknown rela relocation: {kind}", where=where)
            count += 1
    except IndexError:
        raise UncheckedError(f"relocation at {offset:#x} names symbol {symbol} of {len(values)}", where=where) from None
    except struct.error:
        raise UncheckedError(f"relocations of {len(table)} bytes, no multiple of 24", where=where) from None
    return count


def clear_relocations(target: RelocationTarget, table: bytes) -> None:
    """clear_relocate_add (v6.3): zeros where the relocations of a table were written."""
    for offset, kind, _, _ in elf.LITTLE.rela.iter_unpack(table):
        if kind != NONE:
            width = 8 if kind in (R64, PC64) else 4
            target.data[target.at + offset : target.at + offset + width] = bytes(width)


def _refused(target: RelocationTarget, row: _Relocation, width: int, where: str) -> LoadError:
    what, place = f"{NAMES[row.kind]} at {row.offset:#x}", target.at + row.offset
    if row.offset + width > target.size:
        return UncheckedError(f"{what} lies outside a section of {target.size} bytes", where=where)
    found = bytes(target.data[place : place + width]).hex(" ")
    return LoadError(
        f"invalid relocation target, existing value is nonzero ({found}) for {what}, val {row.value & U64:x}",
        where=where,
    )


def _overflow(kind: int, value: int, where: str) -> LoadError:
    return LoadError(f"overflow in relocation type {NAMES[kind]} val {value & U64:x}", where=where)

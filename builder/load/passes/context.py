"""What every pass is given, and the few forms of instruction that they share."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Final

from builder.binary import Address
from builder.errors import LoadError
from builder.image.memory import Memory, Region
from builder.image.simulated import SimulatedKernel
from builder.load.module import LoadedModule, Site

CALL, JMP32, JMP8, RET, INT3, NOP1 = 0xE8, 0xE9, 0xEB, 0xC3, 0xCC, 0x90
CS: Final = 0x2E
# arch/x86/include/asm/nops.h: one NOP of each length up to 8 (v6.1), up to 11 (v6.5).
NOPS: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "", "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000",
        "0f1f840000000000", "2e0f1f840000000000", "662e0f1f840000000000", "66662e0f1f840000000000",
    )
)  # fmt: skip
NOP5: Final = NOPS[5]
DROP_RETURN: Final = bytes.fromhex("488d642408")
"""lea 8(%rsp),%rsp: no flag changes"""
_S32: Final = struct.Struct("<i")
_PREFIXES: Final = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50)))


@dataclass(frozen=True, slots=True)
class Table:
    """A table of patch sites in memory."""

    address: Address
    size: int


@dataclass(slots=True)
class Context:
    """The kernel that is patched, and the tables of the module (or of vmlinux itself).

    `text` bounds what lock prefixes may be removed from. `module` is None for
    vmlinux. A pass writes through `poke` alone, which counts and, with
    `record`, keeps each site.
    """

    kernel: SimulatedKernel
    tables: Mapping[str, Table]
    text: tuple[Address, Address]
    module: LoadedModule | None = None
    record: bool = False
    step: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    traced: tuple[Address, ...] = ()
    breaks_ftrace: bool = False
    its_page: Region | None = None
    its_offset: int = 0
    its_pages: list[Region] = field(default_factory=list)

    @property
    def memory(self) -> Memory:
        return self.kernel.memory

    def table(self, name: str) -> Table | None:
        """The table of that name, None where there is none or it is empty."""
        found = self.tables.get(name)
        return found if found is not None and found.size else None

    def content(self, table: Table) -> bytes:
        return self.kernel.memory.read(table.address, table.size)

    def poke(self, address: Address, new: bytes) -> None:
        """Replace code or data."""
        region = self.kernel.memory.region(address, len(new))
        at = address - region.base
        end = at + len(new)
        if self.record:
            self.sites.append(Site(self.step, address, bytes(region.data[at:end]), new))
        region.data[at:end] = new
        self.kernel.memory.generation += 1
        self.counts[self.step] = self.counts.get(self.step, 0) + 1

    def warn(self, address: Address, message: str) -> None:
        """What the kernel says with WARN."""
        self.warnings.append(f"{self.step}: {message} at {self.kernel.symbols.describe(address)}")

    def relative_sites(self, table: Table) -> list[Address]:
        """The addresses in a table of s32, each relative to itself."""
        size = table.size // 4 * 4  # the kernel's loops step by whole entries
        values = array("i", self.content(Table(table.address, size)))
        return list(map(add, values, range(table.address, table.address + size, 4)))


def branch(opcode: int, address: Address, target: Address) -> bytes:
    """`call rel32` or `jmp rel32` at `address`: __text_gen_insn (asm/text-patching.h)."""
    return bytes((opcode,)) + _S32.pack(wrap32(target - address - 5))


def trampoline_code(address: Address, target: Address | None) -> bytes:
    """Code at `address` that was called at a function's entry: it goes on in `target`, or with None where it was."""
    back = bytes((RET,))
    code = DROP_RETURN + branch(JMP32, address + len(DROP_RETURN), target) if target is not None else back
    return code.ljust(16, bytes((INT3,)))


def wrap32(value: int) -> int:
    """The low 32 bits as a signed number."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def relative(code: bytes | bytearray, at: int = 1) -> int:
    """The s32 at an offset."""
    return int(_S32.unpack_from(code, at)[0])


def fill(length: int, longest: int) -> bytes:
    """add_nops(): `length` bytes of NOPs, each as long as may be."""
    whole, rest = divmod(length, longest)
    return NOPS[longest] * whole + NOPS[rest]


def opcode_at(code: bytes) -> tuple[int, int]:
    """The first opcode byte behind prefixes, and its offset; LoadError where there is none."""
    for at, byte in enumerate(code):
        if byte not in _PREFIXES:
            return byte, at
    raise LoadError("no instruction")

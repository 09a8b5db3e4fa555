"""CPU flags by name, as the kernel itself names them, put into what CPUID answers or taken out of it.

The names are the image's own: `x86_cap_flags[]` (arch/x86/kernel/cpu/capflags.c, which mkcapflags.sh makes),
a pointer for each bit of `x86_capability`. Which word comes from which leaf says
`enum cpuid_leafs` (asm/cpufeature.h, v6.1 and v6.12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final

from builder.binary.kernel import Kernel
from builder.errors import UsageError
from builder.image.boot import CAPABILITY_WORDS

Leaves = Mapping[tuple[int, int], tuple[int, int, int, int]]
"""(leaf, subleaf) of CPUID -> EAX, EBX, ECX, EDX."""
EAX, EBX, ECX, EDX = range(4)
WORDS: Final = {
    0: (1, 0, EDX), 1: (0x80000001, 0, EDX), 4: (1, 0, ECX), 6: (0x80000001, 0, ECX), 9: (7, 0, EBX),
    10: (0xD, 1, EAX), 12: (7, 1, EAX), 13: (0x80000008, 0, EBX), 14: (6, 0, EAX), 15: (0x8000000A, 0, EDX),
    16: (7, 0, ECX), 17: (0x80000007, 0, EBX), 18: (7, 0, EDX), 19: (0x8000001F, 0, EAX), 20: (0x80000021, 0, EAX),
}  # fmt: skip
"""Word of x86_capability -> leaf, subleaf, register; those that Linux makes up have none."""
LONGEST_NAME: Final = 32
NOT_EMULATED: Final = frozenset({"+ibt"})
"""Flags that the emulator knows by no name: QEMU 7.2 ends with "Property 'max-x86_64-cpu.ibt' not found", and with the
same for cet-ibt, shstk and cet-ss; none of its CPU models has one of them."""


def flag_names(kernel: Kernel) -> Mapping[str, int]:
    """Each flag that CPUID shows: its name in /proc/cpuinfo -> word * 32 + bit."""
    table = kernel.symbol("x86_cap_flags").address
    pointers = struct.unpack(f"<{32 * CAPABILITY_WORDS}Q", kernel.read(table, 256 * CAPABILITY_WORDS))
    return {
        kernel.read(pointer, LONGEST_NAME).partition(b"\0")[0].decode("ascii", "replace"): bit
        for bit, pointer in enumerate(pointers)
        if pointer and bit >> 5 in WORDS
    }


def with_flags(kernel: Kernel, leaves: Leaves, changes: Iterable[str]) -> Leaves:
    """The same CPUID with `+NAME` added and `-NAME` taken away; UsageError for a name that the kernel has not."""
    found = dict(leaves)
    names = flag_names(kernel) if changes else {}
    for change in changes:
        sign, name = change[:1], change[1:]
        if sign not in ("+", "-") or name not in names:
            raise UsageError(f"unknown CPU flag {change!r}: +NAME or -NAME with a name that {kernel.release} shows")
        word, bit = divmod(names[name], 32)
        leaf, sub, register = WORDS[word]
        row = list(found.get((leaf, sub), (0, 0, 0, 0)))
        row[register] = row[register] | 1 << bit if sign == "+" else row[register] & ~(1 << bit)
        found[leaf, sub] = (row[0], row[1], row[2], row[3])
        if sign == "+":
            _reach(found, leaf & 0xFFFF0000, 0, leaf)
            if leaf == 7 and sub:
                _reach(found, 7, 0, sub)
    return found


def _reach(leaves: dict[tuple[int, int], tuple[int, int, int, int]], leaf: int, sub: int, last: int) -> None:
    """Let a leaf that says how many there are say at least `last`."""
    highest, *rest = leaves.get((leaf, sub), (0, 0, 0, 0))
    leaves[leaf, sub] = (max(highest, last), rest[0], rest[1], rest[2])

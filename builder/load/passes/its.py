"""Thunks of a module's own for indirect branches on CPUs with the ITS defect (arch/x86/kernel/alternative.c, v6.1.139).

its_allocate_thunk: `jmp *reg; int3` in the upper half of a cache line, on pages of int3.
"""

from __future__ import annotations

from builder.binary import Address
from builder.image.memory import PAGE, Region
from builder.load.passes.context import INT3, Context

LINE = 64


def wants_thunk(context: Context, address: Address, register: int) -> bool:
    """cpu_wants_indirect_its_thunk_at(): the last byte of the branch lies in the lower half of a cache line."""
    return context.kernel.facts.has_its and not (address + 1 + register // 8) & 0x20


def allocate_thunk(context: Context, register: int) -> Address:
    """The address of a new thunk for this register."""
    size = 3 + register // 8
    if context.its_page is None or context.its_offset + size - 1 >= PAGE:
        owner = context.module.name if context.module is not None else "vmlinux"
        base = context.kernel.area.allocate(PAGE)
        context.its_page = Region(base, bytearray(bytes((INT3,)) * PAGE), f"{owner}:its{len(context.its_pages)}", "rx")
        context.kernel.memory.add(context.its_page)
        context.its_pages.append(context.its_page)
        if context.module is not None:
            context.module.regions += (context.its_page,)
        context.its_offset = LINE // 2
    if (context.its_offset + size - 1) % LINE < LINE // 2:
        context.its_offset = (context.its_offset - 1 | LINE - 1) + LINE // 2 + 1
    at = context.its_offset
    prefix = b"\x41" if register >= 8 else b""
    context.its_page.data[at : at + size] = prefix + bytes((0xFF, 0xE0 + (register & 7), INT3))
    context.its_offset += size
    return context.its_page.base + at

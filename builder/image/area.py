"""Room for modules: the module area of the address space, and the part of the per-CPU area that is kept for them."""

from __future__ import annotations

from typing import Final

from builder.binary import Address
from builder.errors import LoadError
from builder.image.memory import PAGE, Memory

# arch/x86/include/asm/pgtable_64_types.h: MODULES_VADDR with CONFIG_RANDOMIZE_BASE, and MODULES_END.
MODULES_START: Final = Address(0xFFFFFFFFC0000000)
MODULES_END: Final = Address(0xFFFFFFFFFF000000)
# include/linux/percpu.h: PERCPU_MODULE_RESERVE
PERCPU_RESERVE: Final = 8 << 10


class ModuleArea:
    """Page-aligned room, each piece with a guard page behind it as vmalloc leaves one; sizes in bytes."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._next = MODULES_START
        self._free: list[tuple[Address, int]] = []

    def allocate(self, size: int) -> Address:
        """The address of room for `size` bytes; nothing is mapped there yet. LoadError where there is none."""
        size = _with_guard(size)
        for i, (start, length) in enumerate(self._free):
            if length >= size and self._memory.overlapping(start, size) is None:
                if length == size:
                    del self._free[i]
                else:
                    self._free[i] = (start + size, length - size)
                return start
        start = self._next
        while (other := self._memory.overlapping(start, size)) is not None:  # placed where a real kernel has it
            start = other.end + -other.end % PAGE
        if start + size > MODULES_END:
            raise LoadError("no room in the module area")
        self._next = start + size
        return start

    def release(self, start: Address, size: int) -> None:
        """Give room back."""
        free = sorted([*self._free, (start, _with_guard(size))])
        merged: list[tuple[Address, int]] = []
        for begin, length in free:
            if merged and merged[-1][0] + merged[-1][1] == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((begin, length))
        if merged and merged[-1][0] + merged[-1][1] == self._next:
            self._next = merged.pop()[0]
        self._free = merged


def _with_guard(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE + PAGE


class PercpuReserve:
    """The reserve for modules behind the kernel's own per-CPU data, which ends at the offset `end`."""

    def __init__(self, end: int) -> None:
        self._start = (end + PAGE - 1) // PAGE * PAGE
        self._taken: dict[int, int] = {}

    def allocate(self, size: int, align: int) -> int:
        """An offset in the per-CPU area, as __alloc_reserved_percpu gives one; LoadError where it is used up."""
        align = max(min(align, PAGE), 1)
        at = self._start + -self._start % align
        for taken, length in sorted(self._taken.items()):
            if at + size <= taken:
                break
            at = max(at, taken + length)
            at += -at % align
        if at + size > self._start + PERCPU_RESERVE:
            raise LoadError(f"Could not allocate {size} bytes percpu data")
        self._taken[at] = size
        return at

    def release(self, at: int) -> None:
        self._taken.pop(at, None)

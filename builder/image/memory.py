"""Memory by address: a few regions of bytes, written through one range-checked door."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from builder.binary import Address
from builder.errors import LoadError

PAGE: Final = 4096
U64: Final = (1 << 64) - 1
U32: Final = (1 << 32) - 1

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_S32: Final = struct.Struct("<i")

Bytes = bytearray | mmap.mmap
"""What can be written to, and keeps its size."""


def room(size: int) -> mmap.mmap:
    """Zeros, at least `size` bytes in whole pages, of which the machine gives each only when it is written to."""
    return mmap.mmap(-1, size + -size % PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@dataclass(slots=True, eq=False)
class Region:
    """Mapped bytes from `base` on; `protection` is a subset of `rwx` as text, for reports and execution."""

    base: Address
    data: Bytes = field(repr=False)
    name: str
    protection: str = "rw"

    @property
    def end(self) -> Address:
        return self.base + len(self.data)


class Memory:
    """Regions that do not overlap, in order of address. Addresses are those of the kernel."""

    def __init__(self) -> None:
        self._bases: list[Address] = []
        self._regions: list[Region] = []
        self.generation = 0
        """Counts changes, so that what was derived from the memory can be made anew."""

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions)

    def add(self, region: Region) -> Region:
        """Map a region; LoadError where it would overlap another."""
        other = self.overlapping(region.base, len(region.data))
        if other is not None:
            raise LoadError(f"{region.name} at {region.base:#x} would overlap {other.name}")
        at = bisect_right(self._bases, region.base)
        self.generation += 1
        self._bases.insert(at, region.base)
        self._regions.insert(at, region)
        return region

    def overlapping(self, base: Address, size: int) -> Region | None:
        """A region that shares bytes with this range, None where it is free."""
        at = bisect_right(self._bases, base)
        for other in self._regions[max(at - 1, 0) : at + 1]:
            if other.base < base + size and base < other.end:
                return other
        return None

    def remove(self, region: Region) -> None:
        at = next(i for i, other in enumerate(self._regions) if other is region)
        self.generation += 1
        del self._bases[at], self._regions[at]

    def find(self, address: Address) -> Region | None:
        """The region that holds `address`, None where nothing is mapped."""
        at = bisect_right(self._bases, address) - 1
        if at < 0:
            return None
        region = self._regions[at]
        return region if address - region.base < len(region.data) else None

    def region(self, address: Address, size: int = 1) -> Region:
        """The region that holds all of `size` bytes; LoadError where there is none."""
        found = self.find(address)
        if found is None or address + size > found.end:
            raise LoadError(f"{size} bytes at {address:#x} are not mapped")
        return found

    def read(self, address: Address, size: int) -> bytes:
        found = self.region(address, size)
        at = address - found.base
        return bytes(found.data[at : at + size])

    def write(self, address: Address, data: bytes) -> None:
        found = self.region(address, len(data))
        at = address - found.base
        self.generation += 1
        found.data[at : at + len(data)] = data

    def overlay(self, address: Address, data: bytes) -> None:
        """Write those parts of `data` that fall into regions."""
        for region in self._regions:
            start, end = max(address, region.base), min(address + len(data), region.end)
            if start < end:
                region.data[start - region.base : end - region.base] = data[start - address : end - address]

    def u8(self, address: Address) -> int:
        return self.read(address, 1)[0]

    def u32(self, address: Address) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def s32(self, address: Address) -> int:
        return int(_S32.unpack(self.read(address, 4))[0])

    def u64(self, address: Address) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def pointer(self, address: Address) -> Address:
        """The address that is stored at `address`."""
        return Address(self.u64(address))

    def write_u32(self, address: Address, value: int) -> None:
        self.write(address, _U32.pack(value & U32))

    def write_u64(self, address: Address, value: int) -> None:
        self.write(address, _U64.pack(value & U64))

    def string(self, address: Address, limit: int = 4096) -> str:
        """The NUL-terminated text at `address`; LoadError where none ends within `limit` bytes."""
        found = self.region(address)
        at = address - found.base
        end = found.data.find(b"\0", at, at + limit)
        if end < 0:
            raise LoadError(f"no terminated text at {address:#x}")
        return found.data[at:end].decode("utf-8", "surrogateescape")

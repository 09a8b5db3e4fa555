"""The static image: the bytes of a vmlinux ELF by the address at which they run."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire import bounds
from builder.binary import Address, elf
from builder.errors import KernelError

Buffer = bytes | mmap.mmap

_PT_LOAD: Final = 1
_NAME: Final = 256
"""Bytes of a section's name at most."""
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
"""p_type p_flags p_offset p_vaddr p_paddr p_filesz p_memsz p_align (gABI chapter 5)"""


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: `file_size` bytes from `offset` of the file, zeros up to `size`; `flags` are PF_*."""

    address: Address
    size: int
    offset: int
    file_size: int
    flags: int


@dataclass(frozen=True, slots=True)
class ImageSection:
    """One section header of the vmlinux; `in_file` is False for SHT_NOBITS; `flags` are SHF_*."""

    name: str
    address: Address
    size: int
    offset: int
    flags: int
    in_file: bool


class StaticImage:
    """A vmlinux ELF of x86-64, addressed by virtual addresses as linked (no KASLR offset).

    The per-CPU template of kernels before 6.15 is linked at address 0; it is found
    there and at `__per_cpu_load`, as two segments.
    """

    def __init__(self, data: Buffer, *, where: str | Path) -> None:
        self.data = data
        self.where = where
        if len(data) < elf.HEADER_SIZE or data[:4] != b"\x7fELF":
            raise KernelError("no ELF file", where=where)
        machine = int.from_bytes(data[18:20], "little" if data[5] == 1 else "big")
        if data[4] != 2 or data[5] != 1 or machine != elf.EM_X86_64:
            kind = {3: "32-bit x86", elf.EM_AARCH64: "AArch64", 243: "RISC-V", 21: "PowerPC", 22: "S/390"}
            what = kind.get(machine, f"ELF machine {machine}")
            raise KernelError(f"a kernel for {what}; only x86-64 kernels can be targets", where=where)
        header = elf.LITTLE.header.unpack_from(data, elf.IDENT)
        kind_of_file, phoff, shoff = header[0], header[4], header[5]
        phnum, shnum, shstrndx = header[9], header[11], header[12]
        if kind_of_file == elf.ET_REL:
            raise KernelError("a relocatable object (a module?), no kernel image", where=where)
        self.segments = self._segments(phoff, phnum)
        self.sections = self._sections(shoff, shnum, shstrndx)
        self._starts = [segment.address for segment in self.segments]

    def with_content(
        self, data: Buffer, segments: tuple[Segment, ...], sections: dict[str, ImageSection]
    ) -> StaticImage:
        """The same file with other bytes, at other addresses."""
        other = copy(self)
        other.data, other.segments, other.sections = data, segments, sections
        other._starts = [segment.address for segment in segments]
        return other

    def _segments(self, phoff: int, count: int) -> tuple[Segment, ...]:
        if phoff + count * _PROGRAM.size > len(self.data):
            raise KernelError("truncated: the program headers are missing", where=self.where)
        rows = [_PROGRAM.unpack_from(self.data, phoff + i * _PROGRAM.size) for i in range(count)]
        rows = [row for row in rows if row[0] == _PT_LOAD]
        # The per-CPU template linked at 0 is loaded among the rest, where __per_cpu_load says.
        offset_map = max((vaddr - paddr for _, _, _, vaddr, paddr, *_ in rows), default=0)
        found: set[Segment] = set()
        for _kind, flags, offset, vaddr, paddr, filesz, memsz, _align in rows:
            for address in {vaddr, paddr + offset_map}:
                found.add(Segment(address, memsz, offset, filesz, flags))
        if not found:
            raise KernelError("an ELF file without a loadable segment, no kernel image", where=self.where)
        if sum(segment.size for segment in found) > bounds.most(len(self.data)):
            raise KernelError(f"the memory of its segments {bounds.beyond(len(self.data))}", where=self.where)
        end = max(segment.offset + segment.file_size for segment in found)
        if end > len(self.data):
            raise KernelError(
                f"truncated: its segments end at byte {end}, the file at {len(self.data)}", where=self.where
            )
        return tuple(sorted(found, key=lambda segment: segment.address))

    def _sections(self, shoff: int, count: int, shstrndx: int) -> dict[str, ImageSection]:
        """By name, the first of equal names; empty where the headers were stripped."""
        size = elf.LITTLE.section.size
        if not shoff or shoff + count * size > len(self.data):
            return {}
        rows = [elf.LITTLE.section.unpack_from(self.data, shoff + i * size) for i in range(count)]
        if shstrndx >= len(rows):
            return {}
        names = rows[shstrndx][4]
        found: dict[str, ImageSection] = {}
        for name, kind, flags, address, offset, length, *_ in rows[1:]:
            text = self._string_at(names + name)
            found.setdefault(text, ImageSection(text, address, length, offset, flags, kind != elf.SHT_NOBITS))
        return found

    def _string_at(self, offset: int) -> str:
        end = self.data.find(b"\0", offset, offset + _NAME)
        return self.data[offset : end if end >= 0 else offset + _NAME].decode("utf-8", "surrogateescape")

    @property
    def text_limits(self) -> tuple[Address, Address]:
        """The lowest address of the kernel's own mapping and the end of the highest."""
        upper = [segment for segment in self.segments if segment.address >> 63]
        if not upper:
            raise KernelError("no segment is at a kernel address, no kernel image", where=self.where)
        return upper[0].address, max(segment.address + segment.size for segment in upper)

    def locate(self, address: Address) -> tuple[Segment, int]:
        """The segment that holds `address`, and the offset in it; KernelError where there is none."""
        i = bisect_right(self._starts, address) - 1
        if i >= 0 and address - self._starts[i] < self.segments[i].size:
            return self.segments[i], address - self._starts[i]
        raise KernelError(f"{address:#x} is outside the static image", where=self.where)

    def address_of(self, offset: int) -> Address:
        """The address at which the byte at `offset` of the file is loaded."""
        for segment in self.segments:
            if 0 <= offset - segment.offset < segment.file_size:
                return segment.address + offset - segment.offset
        raise KernelError(f"byte {offset:#x} of the file is not loaded", where=self.where)

    def is_loaded(self, offset: int, size: int) -> bool:
        """Whether `size` bytes from `offset` of the file are all loaded, by one segment."""
        return any(
            segment.offset <= offset and offset + size <= segment.offset + segment.file_size
            for segment in self.segments
        )

    def read(self, address: Address, size: int) -> bytes:
        """`size` bytes as they are before boot: zeros in .bss; KernelError outside the image."""
        segment, within = self.locate(address)
        if size < 0 or within + size > segment.size:
            raise KernelError(f"{size} bytes at {address:#x} leave the static image", where=self.where)
        stop = max(min(within + size, segment.file_size), within)
        found = self.data[segment.offset + within : segment.offset + stop]
        return found + bytes(size - len(found))

    def fill(self, room: mmap.mmap, segment: Segment) -> None:
        """Put a segment as it is before boot into zeros; straight from the file, for it is tens of MB."""
        size = min(segment.file_size, segment.size)
        with memoryview(room) as into, memoryview(self.data) as image:
            into[:size] = image[segment.offset : segment.offset + size]

    def holds(self, text: bytes) -> bool:
        """Whether `text` lies in a segment as it is before boot."""
        ends = ((segment.offset, segment.offset + segment.file_size) for segment in self.segments)
        return any(self.data.find(text, start, end) >= 0 for start, end in ends)

    def string(self, address: Address) -> str:
        """The NUL-terminated text at `address`."""
        segment, within = self.locate(address)
        begin, stop = segment.offset + within, segment.offset + segment.file_size
        end = self.data.find(b"\0", begin, stop) if begin < stop else -1
        if end < 0:
            raise KernelError(f"no terminated text at {address:#x}", where=self.where)
        return self.data[begin:end].decode("utf-8", "surrogateescape")

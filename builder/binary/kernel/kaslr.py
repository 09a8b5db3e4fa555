"""The relocations that a relocatable kernel carries behind its ELF, for boots at another address.

arch/x86/tools/relocs.c (`emit_relocs`) appends lists of 32-bit addresses, each
behind a zero: sites of 64 bits, up to 6.14 sites of 32 bits from which the
offset is subtracted (per-CPU references), and sites of 32 bits.
`handle_relocations` of arch/x86/boot/compressed/misc.c applies them.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from builder.binary import Address, elf
from builder.binary.kernel.static import StaticImage
from builder.errors import KernelError

KERNEL_MAP: Final = 0xFFFFFFFF80000000
"""__START_KERNEL_map (arch/x86/include/asm/page_64_types.h): what lies below is not moved (per-CPU offsets)."""
IMAGE_SIZE: Final = 1 << 30
"""KERNEL_IMAGE_SIZE with CONFIG_RANDOMIZE_BASE: the image ends below, moved or not."""
ALIGN: Final = 0x200000
"""CONFIG_PHYSICAL_ALIGN: offsets are multiples of it (find_random_virt_addr, arch/x86/boot/compressed/kaslr.c)."""


@dataclass(frozen=True, slots=True)
class KaslrRelocations:
    """Addresses, as linked, of every site to which the offset of a KASLR boot is added or subtracted."""

    add64: tuple[Address, ...]
    subtract32: tuple[Address, ...]
    add32: tuple[Address, ...]


def read_relocations(image: StaticImage, *, inverse: bool) -> KaslrRelocations:
    """The three lists; `inverse` says that this kernel has the second (its per-CPU area is linked at 0).

    Raises KernelError where there are none (CONFIG_RELOCATABLE is off, or the image is a plain vmlinux).
    """
    words = array("I")
    tail = image.data[_end(image) :]
    words.frombytes(tail[: len(tail) & ~3])
    starts = [i for i, word in enumerate(words) if not word]
    wanted = 3 if inverse else 2
    if not words or starts[:1] != [0] or len(starts) != wanted:
        raise KernelError("no KASLR relocations behind the ELF (not relocatable, or no bzImage)", where=image.where)
    stops = [*starts[1:], len(words)]
    lists = [_addresses(words[i + 1 : stop]) for i, stop in zip(starts, stops, strict=True)]
    return KaslrRelocations(lists[0], lists[1] if inverse else (), lists[-1])


def _addresses(words: array[int]) -> tuple[Address, ...]:
    """Sign-extended, as the kernel does."""
    return tuple(Address(word | 0xFFFFFFFF_00000000 if word >> 31 else word) for word in words)


def moved(address: Address, offset: int) -> Address:
    """Where an address of the image is in a kernel that was moved."""
    return address + offset if address >= KERNEL_MAP else address


def check_offset(image: StaticImage, offset: int) -> None:
    """KernelError for an offset that no boot gives this image."""
    end = image.text_limits[1] + offset
    if offset < 0 or offset % ALIGN or end > KERNEL_MAP + IMAGE_SIZE:
        raise KernelError(
            f"{offset:#x} is no KASLR offset for it: a multiple of {ALIGN:#x}, below "
            f"{KERNEL_MAP + IMAGE_SIZE - image.text_limits[1]:#x}",
            where=image.where,
        )


def relocate(image: StaticImage, sites: KaslrRelocations, offset: int) -> StaticImage:
    """The image as handle_relocations() makes it: at another address, all sites adjusted."""
    data = bytearray(image.data)
    for rows, form, by in ((sites.add64, "<Q", offset), (sites.subtract32, "<I", -offset), (sites.add32, "<I", offset)):
        _add(data, image, rows, struct.Struct(form), by)
    segments = tuple(replace(s, address=moved(s.address, offset)) for s in image.segments)
    sections = {name: replace(s, address=moved(s.address, offset)) for name, s in image.sections.items()}
    return image.with_content(bytes(data), segments, sections)


def _add(data: bytearray, image: StaticImage, rows: Iterable[Address], form: struct.Struct, by: int) -> None:
    mask = (1 << 8 * form.size) - 1
    start = end = shift = 0
    for address in rows:
        if not start <= address < end:
            segment, _ = image.locate(address)
            start, end = segment.address, segment.address + segment.file_size - form.size + 1
            shift = segment.offset - segment.address
            if address >= end:
                raise KernelError(f"a KASLR relocation at {address:#x} is outside the file", where=image.where)
        (value,) = form.unpack_from(data, address + shift)
        form.pack_into(data, address + shift, value + by & mask)


def _end(image: StaticImage) -> int:
    """Where the ELF ends: behind its headers, segments and sections, whatever is last."""
    header = elf.LITTLE.header.unpack_from(image.data, elf.IDENT)
    ends = [header[4] + header[8] * header[9], header[5] + header[10] * header[11]]
    ends += [segment.offset + segment.file_size for segment in image.segments]
    ends += [section.offset + section.size for section in image.sections.values() if section.in_file]
    return max(map(int, ends))

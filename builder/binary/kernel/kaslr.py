"""The relocations that a relocatable kernel carries behind its ELF, for boots at another address.

arch/x86/tools/relocs.c (`emit_relocs`) appends lists of 32-bit addresses, each
behind a zero: sites of 64 bits, up to 6.14 sites of 32 bits from which the
offset is subtracted (per-CPU references), and sites of 32 bits.
`handle_relocations` of arch/x86/boot/compressed/misc.c applies them.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from builder.binary import elf
from builder.binary.kernel.static import StaticImage
from builder.errors import KernelError


@dataclass(frozen=True, slots=True)
class KaslrRelocations:
    """Addresses, as linked, of every site to which the offset of a KASLR boot is added or subtracted."""

    add64: tuple[int, ...]
    subtract32: tuple[int, ...]
    add32: tuple[int, ...]


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
        raise KernelError(
            "no KASLR relocations behind the ELF (not relocatable, or no bzImage)", where=image.where
        )
    stops = [*starts[1:], len(words)]
    lists = [_addresses(words[i + 1 : stop]) for i, stop in zip(starts, stops, strict=True)]
    return KaslrRelocations(lists[0], lists[1] if inverse else (), lists[-1])


def _addresses(words: array[int]) -> tuple[int, ...]:
    """Sign-extended, as the kernel does."""
    return tuple(word | 0xFFFFFFFF_00000000 if word >> 31 else word for word in words)


def _end(image: StaticImage) -> int:
    """Where the ELF ends: behind its headers, segments and sections, whatever is last."""
    header = elf.LITTLE.header.unpack_from(image.data, elf.IDENT)
    ends = [header[4] + header[8] * header[9], header[5] + header[10] * header[11]]
    ends += [segment.offset + segment.file_size for segment in image.segments]
    ends += [section.offset + section.size for section in image.sections.values() if section.in_file]
    return max(map(int, ends))

"""From a bzImage, or anything compressed, to the bytes inside.

A bzImage holds the kernel as one compressed stream; its setup header says
where it is (Documentation/arch/x86/boot.rst, `payload_offset` and
`payload_length`, protocol 2.08). The last four bytes of that stream are the
size of the content (scripts/Makefile.lib, `size_append`; gzip has them itself).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from builder.acquire import bounds
from builder.binary import streams
from builder.errors import KernelError

_ELF: Final = b"\x7fELF"
_FORMATS: Final[tuple[tuple[bytes, str, streams.Decoder | None], ...]] = (
    (b"\x1f\x8b", "gzip", streams.gzip),
    (b"\xfd7zXZ\x00", "xz", streams.xz),
    (b"\x28\xb5\x2f\xfd", "zstd", streams.zstd),
    (b"\x02\x21\x4c\x18", "lz4", streams.lz4_legacy),
    (b"BZh", "bzip2", streams.bzip2),
    (b"\x5d\x00\x00", "lzma", streams.lzma),
    (b"\x89LZO", "lzo", None),
)
"""Magic, name, decoder: a row for each compression a kernel can be built with (init/Kconfig)."""


def compression(data: bytes) -> str | None:
    """The name of the compression that `data` begins with, None when there is none."""
    return next((name for magic, name, _ in _FORMATS if data.startswith(magic)), None)


def decompress(data: bytes, *, where: str | Path) -> bytes:
    """The content of a compressed file, told by its magic; bytes of no such format as they are.

    Raises KernelError where the stream is damaged, holds more than it may (see `bounds`), or is of a format without
    a decoder.
    """
    for magic, name, decoder in _FORMATS:
        if not data.startswith(magic):
            continue
        if decoder is None:
            raise KernelError(f"compressed with {name}, for which there is no decoder", where=where)
        try:
            content = decoder(data, bounds.most(len(data)))
        except Exception as error:  # each library has an exception of its own
            raise KernelError(f"the {name} stream is damaged: {error}", where=where) from error
        if len(content) > bounds.most(len(data)):
            raise KernelError(f"the content of its {name} stream {bounds.beyond(len(data))}", where=where)
        return content
    return data


def extract_vmlinux(data: bytes, *, where: str | Path) -> bytes:
    """The vmlinux ELF inside a bzImage, a compressed vmlinux, or `data` itself where it is an ELF.

    What a relocatable kernel appends to it (its relocations, read by
    `handle_relocations` of arch/x86/boot/compressed/misc.c) stays behind the ELF.
    Raises KernelError for everything else, and says what it is.
    """
    if data.startswith(_ELF):
        return data
    if len(data) >= 0x268 and data[0x202:0x206] == b"HdrS":
        content = _payload(data, where)
    elif compression(data):
        content = decompress(data, where=where)
    else:
        raise KernelError(_strange(data), where=where)
    if not content.startswith(_ELF):
        raise KernelError(f"what is compressed in it is no ELF: {_strange(content)}", where=where)
    return content


def _payload(data: bytes, where: str | Path) -> bytes:
    """The decompressed payload of a bzImage, of the size that is recorded behind it."""
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    if protocol < 0x208:
        raise KernelError(f"boot protocol {protocol >> 8}.{protocol & 255:02} is older than 2.08", where=where)
    sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    begin = (sectors + 1) * 512 + offset
    if length < 8 or begin + length > len(data):
        raise KernelError(f"truncated: its kernel ends at byte {begin + length}, the file at {len(data)}", where=where)
    packed = data[begin : begin + length]
    if compression(packed) is None:
        raise KernelError(f"unknown compression, magic {packed[:6].hex(' ')}", where=where)
    content = decompress(packed, where=where)
    (size,) = struct.unpack_from("<I", packed, length - 4)
    if len(content) != size:
        raise KernelError(f"decompresses to {len(content)} bytes where {size} are recorded", where=where)
    return content


def _strange(data: bytes) -> str:
    """What a file is that is no x86-64 kernel image."""
    if not data:
        return "an empty file"
    if data[0x38:0x3C] == b"ARM\x64":
        return "a kernel for AArch64; only x86-64 kernels can be targets"
    if data[0x30:0x38] == b"RISCV\0\0\0":
        return "a kernel for RISC-V; only x86-64 kernels can be targets"
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        return "an EFI zboot image; only x86-64 kernels can be targets"
    if data.startswith(b"!<arch>\ndebian-binary"):
        return "a package of Debian, no kernel image: name the kernel's release, or a file of the package (dpkg-deb -x)"
    if b"\0" not in data[:4096]:
        return "a text file, no kernel image"
    return f"no kernel image (neither bzImage nor ELF; it begins with {data[:8].hex(' ')})"

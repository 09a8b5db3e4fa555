"""From a bzImage, or anything compressed, to the bytes inside.

A bzImage holds the kernel as one compressed stream; its setup header says
where it is (Documentation/arch/x86/boot.rst, `payload_offset` and
`payload_length`, protocol 2.08). The last four bytes of that stream are the
size of the content (scripts/Makefile.lib, `size_append`; gzip has them itself).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from builder.errors import KernelError

_ELF: Final = b"\x7fELF"
_MOST: Final = 1 << 31
"""No kernel is larger than this; what claims to be is not decompressed on."""


def _drain(decoder: object, data: bytes, kind: str) -> bytes:
    """The content of a one-stream decoder of the standard interface, which must reach its end."""
    content: bytes = decoder.decompress(data)  # type: ignore[attr-defined]
    if not getattr(decoder, "eof", True):
        raise EOFError(f"the {kind} stream ends early")
    return content


def _gzip(data: bytes) -> bytes:
    return _drain(zlib.decompressobj(wbits=31), data, "gzip")


def _xz(data: bytes) -> bytes:
    import lzma

    return _drain(lzma.LZMADecompressor(format=lzma.FORMAT_XZ), data, "xz")


def _lzma(data: bytes) -> bytes:
    import lzma

    # No end mark where the header gives the size: the stream then ends by itself.
    return _drain(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE), data, "lzma")


def _bzip2(data: bytes) -> bytes:
    import bz2

    return _drain(bz2.BZ2Decompressor(), data, "bzip2")


def _zstd(data: bytes) -> bytes:
    import zstandard

    # The kernel is compressed with `zstd --ultra -22`, whose window is 128 MiB.
    return _drain(zstandard.ZstdDecompressor(max_window_size=_MOST).decompressobj(), data, "zstd")


def _lz4_legacy(data: bytes) -> bytes:
    """The frame of `lz4 -l`: the magic, then blocks of at most 8 MiB, each behind its u32 size."""
    import lz4.block

    parts: list[bytes] = []
    at, total = 4, 0
    while at + 4 < len(data):  # a lone last word is the size that the kernel build appends
        (size,) = struct.unpack_from("<I", data, at)
        if size > len(data) - at - 4:
            raise EOFError("the lz4 stream ends early")
        parts.append(lz4.block.decompress(data[at + 4 : at + 4 + size], uncompressed_size=8 << 20))
        at, total = at + 4 + size, total + len(parts[-1])
        if total > _MOST:
            raise ValueError("more than 2 GiB of content")
    return b"".join(parts)


_FORMATS: Final[tuple[tuple[bytes, str, Callable[[bytes], bytes] | None], ...]] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"\xfd7zXZ\x00", "xz", _xz),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"\x02\x21\x4c\x18", "lz4", _lz4_legacy),
    (b"BZh", "bzip2", _bzip2),
    (b"\x5d\x00\x00", "lzma", _lzma),
    (b"\x89LZO", "lzo", None),
)
"""Magic, name, decoder: a row for each compression a kernel can be built with (init/Kconfig)."""


def compression(data: bytes) -> str | None:
    """The name of the compression that `data` begins with, None when there is none."""
    return next((name for magic, name, _ in _FORMATS if data.startswith(magic)), None)


def decompress(data: bytes, *, where: str | Path) -> bytes:
    """The content of a compressed file, told by its magic; bytes of no such format as they are.

    Raises KernelError where the stream is damaged, or of a format without a decoder.
    """
    for magic, name, decoder in _FORMATS:
        if not data.startswith(magic):
            continue
        if decoder is None:
            raise KernelError(f"compressed with {name}, for which there is no decoder", where=where)
        try:
            return decoder(data)
        except Exception as error:  # each library has an exception of its own
            raise KernelError(f"the {name} stream is damaged: {error}", where=where) from error
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
    if b"\0" not in data[:4096]:
        return "a text file, no kernel image"
    return f"no kernel image (neither bzImage nor ELF; it begins with {data[:8].hex(' ')})"

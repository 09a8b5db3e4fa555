"""Compressed streams, decompressed as far as a bound.

Each decoder is given a stream and `most`, and returns the content; where there is more than `most` bytes of it, what
it returns is longer than that and not whole. For a damaged stream it raises an exception of its library, or EOFError
for one that ends early.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

_WINDOW: Final = 256 << 20
"""Bytes that a decoder may look back: `zstd --ultra -22`, by which kernels are compressed, has 128 MiB."""
_STEP: Final = 1024
"""Bytes given to the zstd decoder at once, which has no bound of its own: 3 make at most a block of 128 KiB."""
_LZ4_BLOCK: Final = 8 << 20

Decoder = Callable[[bytes, int], bytes]


def _drain(decoder: object, data: bytes, most: int) -> bytes:
    """The content of a one-stream decoder of the standard interface, which must reach its end or the bound."""
    content: bytes = decoder.decompress(data, most + 1)  # type: ignore[attr-defined]
    if len(content) <= most and not decoder.eof:  # type: ignore[attr-defined]
        raise EOFError("it ends early")
    return content


def gzip(data: bytes, most: int) -> bytes:
    return _drain(zlib.decompressobj(wbits=31), data, most)


def deflated(data: bytes, most: int) -> bytes:
    """zlib's own format (RFC 1950), as in compressed sections."""
    return _drain(zlib.decompressobj(), data, most)


def xz(data: bytes, most: int) -> bytes:
    import lzma

    return _drain(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_WINDOW), data, most)


def lzma(data: bytes, most: int) -> bytes:
    import lzma

    # No end mark where the header gives the size: the stream then ends by itself.
    return _drain(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE, memlimit=_WINDOW), data, most)


def bzip2(data: bytes, most: int) -> bytes:
    import bz2

    return _drain(bz2.BZ2Decompressor(), data, most)


def zstd(data: bytes, most: int) -> bytes:
    import zstandard  # only some kernels need it

    decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
    content = bytearray()
    view = memoryview(data)
    for at in range(0, len(data), _STEP):
        content += decoder.decompress(view[at : at + _STEP])
        if decoder.eof or len(content) > most:
            return bytes(content)
    raise EOFError("it ends early")


def lz4_legacy(data: bytes, most: int) -> bytes:
    """The frame of `lz4 -l`: the magic, then blocks of at most 8 MiB, each behind its u32 size."""
    import lz4.block

    parts: list[bytes] = []
    at, total = 4, 0
    while at + 4 < len(data) and total <= most:  # a lone last word is the size that the kernel build appends
        (size,) = struct.unpack_from("<I", data, at)
        if size > len(data) - at - 4:
            raise EOFError("it ends early")
        parts.append(lz4.block.decompress(data[at + 4 : at + 4 + size], uncompressed_size=_LZ4_BLOCK))
        at, total = at + 4 + size, total + len(parts[-1])
    return b"".join(parts)

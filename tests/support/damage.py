"""Damage to a file: to an ELF file by its headers and tables, to a text by its lines, to any by its bytes."""

from __future__ import annotations

import random
import struct
from typing import Final

ANY: Final = ("bit", "bits", "cut", "zeros", "word")
"""What any file can suffer."""
ELF: Final = ("bits", "header", "section header", "cut", "relocation", "symbol", "zeros", "word")
"""What a module can."""
TEXT: Final = (*ANY, "lines", "digits")
"""What a text can."""
SECTIONS: Final = ("swapped", "extreme")
"""More for the headers of sections: a field of another section (its name, that of a table, too), or an extreme."""
_EXTREMES: Final = (0, 1, 3, 24, 0xFFF, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1)
_WIDTHS: Final = (4, 4, 8, 8, 8, 8, 4, 4, 8, 8)


def damaged(data: bytes, kind: str, generator: random.Random) -> bytes:
    """`data` with one damage of a kind."""
    out = bytearray(data)
    any_byte = generator.randrange(len(out))
    if kind == "bits":
        for _ in range(generator.randint(1, 60)):
            out[generator.randrange(len(out))] ^= 1 << generator.randrange(8)
    elif kind == "bit":
        out[any_byte] ^= 1 << generator.randrange(8)
    elif kind == "header":
        out[generator.randrange(64)] = generator.randrange(256)
    elif kind == "cut":
        del out[any_byte:]
    elif kind == "zeros":
        end = min(len(out), any_byte + generator.randint(1, 5000))
        out[any_byte:end] = bytes(end - any_byte)
    elif kind == "word":
        at = generator.randrange(max(len(out) - 8, 1))
        out[at : at + 8] = struct.pack("<Q", generator.choice((0, 1 << 62, 1 << 63, (1 << 64) - 1, 0xFFFFFFFF)))
    elif kind in ("lines", "digits"):
        return _text(data, kind, generator)
    else:
        _elf(out, kind, generator)
    return bytes(out)


def _text(data: bytes, kind: str, generator: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(generator.randint(1, 4)):
        at, other = generator.randrange(len(lines)), generator.randrange(len(lines))
        if kind == "digits":
            found = [i for i, line in enumerate(lines) if line.startswith((b"@@", b"index", b"diff", b"---", b"+++"))]
            at = generator.choice(found or [at])
            lines[at] = bytes(
                generator.choice(b"0123456789,-+/ ") if generator.random() < 0.1 else byte for byte in lines[at]
            )
        else:
            lines[at:at] = [lines[other]]
            del lines[generator.randrange(len(lines))]
    return b"\n".join(lines)


def _elf(out: bytearray, kind: str, generator: random.Random) -> None:
    (shoff,), (shnum,) = struct.unpack_from("<Q", out, 40), struct.unpack_from("<H", out, 60)
    header = shoff + 64 * generator.randrange(shnum)
    if kind == "section header":
        out[header + generator.randrange(64)] = generator.randrange(256)
    elif kind in SECTIONS:
        field = generator.randrange(len(_WIDTHS))
        at, width = header + sum(_WIDTHS[:field]), _WIDTHS[field]
        other = shoff + 64 * generator.randrange(shnum) + sum(_WIDTHS[:field])
        value = generator.choice(_EXTREMES) % (1 << 8 * width)
        out[at : at + width] = out[other : other + width] if kind == "swapped" else value.to_bytes(width, "little")
    elif kind in ("relocation", "symbol"):
        rows = [struct.unpack_from("<IIQQQQIIQQ", out, shoff + 64 * i) for i in range(shnum)]
        row = generator.choice([r for r in rows if r[1] == (4 if kind == "relocation" else 2)])
        for _ in range(generator.randint(1, 5)):
            out[row[4] + generator.randrange(row[5])] = generator.randrange(256)
    else:
        raise ValueError(kind)

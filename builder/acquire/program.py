"""Programs as ELF files: whether a loader starts them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_HEADER: Final = 64
_PT_INTERP: Final = 3


def names_loader(path: Path) -> bool | None:
    """Whether an ELF-64 file asks for a loader to start it (PT_INTERP, gABI chapter 5); None for what is no such file.

    One that asks for none runs where there is no C library.
    """
    with open(path, "rb") as handle:
        head = handle.read(_HEADER)
        if head[:5] != b"\x7fELF\x02":  # of ELFCLASS64
            return None
        start = int.from_bytes(head[32:40], "little")
        size, count = (int.from_bytes(head[at : at + 2], "little") for at in (54, 56))
        handle.seek(start)
        table = handle.read(size * count)
    return any(int.from_bytes(table[i * size :][:4], "little") == _PT_INTERP for i in range(count))

"""How much an input may take: the one place that decides it, whatever the format.

What a file asks for beyond its own bytes (compressed content, sections without bytes, alignments, names that many
share) is counted before anything is made of that size, and a stream is decompressed no further than the bound.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from builder.errors import InputError

FREE: Final = 64 << 20
"""What every input may take, however small it is."""
TIMES: Final = 16
"""What a larger one may take, in times of its size: debug information and kernels take 3 to 8."""
TOTAL: Final = 4 << 30
"""What none may exceed, itself included."""


def most(size: int) -> int:
    """Bytes that an input of `size` bytes may be expanded to."""
    return min(max(FREE, TIMES * size), TOTAL)


def beyond(size: int) -> str:
    """How an error goes on after "its ... ": what the bound is for an input of `size` bytes, and why."""
    return (
        f"would take more than {most(size) >> 20} MiB, the bound for {size} bytes "
        f"({TIMES} times the input beyond {FREE >> 20} MiB, {TOTAL >> 30} GiB in all)"
    )


def read_input(path: Path, *, where: str | Path | None = None) -> bytes:
    """The bytes of a file (or of a pipe), as far as they may be.

    Raises InputError, which calls the file `where`, for what cannot be read, a device, and what is larger than any
    input may be.
    """
    where = where or path
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode):
                raise InputError("is a device, no file", where=where)
            if state.st_size > TOTAL:
                raise InputError(f"is of {state.st_size} bytes, more than {TOTAL >> 30} GiB", where=where)
            # A regular file has its size; only a pipe can hold more than its state says.
            content = file.read(TOTAL + 1) if stat.S_ISFIFO(state.st_mode) else file.read()
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=where) from None
    if len(content) > TOTAL:
        raise InputError(f"is of more than {TOTAL >> 30} GiB", where=where)
    return content

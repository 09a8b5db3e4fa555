"""Checksums of what the cache holds: what is damaged is found when it is first used in a run, and made again.

CRC-32, for a disk or an interrupted copy is what damages a cache, and what is used must be read through each time.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path
from typing import Final

log = logging.getLogger("bespoke.acquire")

_PIECE: Final = 1 << 20
_SEAL: Final = slice(68, 72)
"""`application_id` in the header of a SQLite database, which SQLite leaves alone (fileformat2, 1.3.14)."""

_sound: dict[tuple[object, ...], int] = {}
"""What was read in this run: the state of each file and its checksum."""


def checksum(path: Path, *, without: slice = slice(0, 0)) -> int:
    """CRC-32 of a file, the bytes `without` (of its first MiB) taken for zeros; once in a run for each state of it."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, without.start)
        found = _sound.get(key)
        if found is None:
            piece = bytearray(file.read(_PIECE))
            piece[without] = bytes(len(piece[without]))
            found = zlib.crc32(piece)
            while piece := bytearray(file.read(_PIECE)):
                found = zlib.crc32(piece, found)
            _sound[key] = found
    return found


def seal(database: Path) -> None:
    """Write the checksum of a SQLite database, which nobody has open, into its header."""
    found = checksum(database, without=_SEAL)
    with database.open("r+b") as file:
        file.seek(_SEAL.start)
        file.write(found.to_bytes(4, "big"))


def is_sealed(database: Path) -> bool:
    """Whether a database is as it was when it was sealed; what cannot be read is not."""
    try:
        with database.open("rb") as file:
            kept = file.read(_SEAL.stop)[_SEAL]
        return kept == checksum(database, without=_SEAL).to_bytes(4, "big")
    except OSError:
        return False


def note_damage(path: Path) -> None:
    """Say that something of the cache is damaged, and that it is made again."""
    log.warning("the cache was damaged: %s is made again", path)

"""Checksums of what the cache holds: what is damaged is found when it is first used in a run, and made again.

CRC-32, for a disk or an interrupted copy is what damages a cache, and what is used must be read through each time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from builder.acquire.whole import write_whole
from builder.errors import UsageError

log = logging.getLogger("bespoke.acquire")

_RECORD: Final = ".sums"
_PIECE: Final = 1 << 20
_SEAL: Final = slice(68, 72)
"""`application_id` in the header of a SQLite database, which SQLite leaves alone (fileformat2, 1.3.14)."""


def checksum(path: Path, *, without: slice = slice(0, 0)) -> int:
    """CRC-32 of a file, the bytes `without` (of its first MiB) taken for zeros; once in a run for each state of it."""
    now = path.stat()
    state = now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
    return _checksum(path, state, without.start, without.stop)


@cache
def _checksum(path: Path, _state: tuple[int, ...], start: int, stop: int) -> int:
    with path.open("rb") as file:
        piece = memoryview(bytearray(_PIECE))
        size, found = file.readinto(piece), 0
        piece[start:stop] = bytes(stop - start)
        while size:
            found = zlib.crc32(piece[:size], found)
            size = file.readinto(piece)
    return found


def seal(database: Path) -> None:
    """Write the checksum of a SQLite database, which nobody has open, into its header."""
    found = checksum(database, without=_SEAL)
    with database.open("r+b") as file:
        file.seek(_SEAL.start)
        file.write(found.to_bytes(4, "big"))


def is_sealed(database: Path) -> bool:
    """Whether a database is there as it was when it was sealed; of one that is damaged, or no file, there is a note."""
    try:
        with database.open("rb") as file:
            kept = file.read(_SEAL.stop)[_SEAL]
        if kept == checksum(database, without=_SEAL).to_bytes(4, "big"):
            return True
    except FileNotFoundError:
        return False
    except OSError:
        pass
    note_damage(database)
    return False


def record(folder: Path) -> None:
    """Write the checksums of all files below a directory into it."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    write_json(folder / _RECORD, {os.path.relpath(path, folder): checksum(path) for path in files})


def damaged(folder: Path, names: Iterable[str] | None = None) -> Path | None:
    """The first file of a recorded directory that is not as it was then, of `names` or of all; None where all are.

    A directory without a record (an older version's) tells nothing.
    """
    if not (folder / _RECORD).exists():
        return None
    known = read_json(folder / _RECORD)
    if not isinstance(known, dict):
        return folder / _RECORD
    for name in map(str, known if names is None else known.keys() & set(names)):
        path = folder / name
        try:
            if checksum(path) != known[name]:
                return path
        except OSError:
            return path
    return None


def write_json(path: Path, value: object) -> None:
    """Write a document with its checksum, whole or not at all; a directory in its place goes."""
    if path.is_dir():
        shutil.rmtree(path)
    text = json.dumps(value)
    write_whole(path, json.dumps({"crc": zlib.crc32(text.encode()), "value": text}))


def keep_json(path: Path, value: object) -> None:
    """`write_json` of what can be found anew: a cache that only can be read, or is another's, is no failure; no more is
    a full disk."""
    with suppress(OSError, UsageError):
        write_json(path, value)


def read_json(path: Path) -> Any:
    """What `write_json` wrote there; None where there is none, and, with a note, where it is damaged."""
    try:
        document = json.loads(path.read_bytes())
        if document["crc"] == zlib.crc32(document["value"].encode()):
            return json.loads(document["value"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    note_damage(path)
    return None


def note_damage(path: Path) -> None:
    """Say that something of the cache is damaged, and that it is made again."""
    log.warning("the cache was damaged: %s is made again", path)

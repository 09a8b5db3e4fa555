"""Checksums of what the cache holds: what is damaged is found when it is first used in a run, and made again.

CRC-32, for a disk or an interrupted copy is what damages a cache. What is large and used by each run is read through
once after each start of the machine, and whenever its file is not the same any more (`checksum_once`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from builder.acquire.whole import write_whole
from builder.errors import UsageError

log = logging.getLogger("bespoke.acquire")

_RECORD: Final = ".sums"
_CRC: Final = 4
"""Bytes of a checksum."""
_PIECE: Final = 1 << 16
"""Bytes read at once: as many as stay in the processor's cache."""
SETTLED: Final = 2 * 10**9
"""Nanoseconds after which a change of a file or folder has another time than the one before, on any file system."""
_SEAL: Final = slice(68, 72)
"""`application_id` in the header of a SQLite database, which SQLite leaves alone (fileformat2, 1.3.14)."""


def checksum(path: Path, *, without: slice = slice(0, 0)) -> int:
    """CRC-32 of a file, the bytes `without` (of its first 64 KiB) taken for zeros; once in a run for each state."""
    return _checksum(path, state(path), without.start, without.stop)


def state(path: Path) -> tuple[int, ...]:
    """What changes when a file does, or another takes its place; the time of its last change is the last of it."""
    now = path.stat()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def checksum_once(path: Path, *, without: slice = slice(0, 0)) -> int:
    """The same, found once while this machine runs and the file stays as it is: that is kept beside it.

    Whoever writes to a file changes its times, and who copies a cache makes other files. Of one that was changed just
    now nothing is kept: it could be changed again without another time.
    """
    return int(_once(path, "read", [without.start, without.stop], lambda: checksum(path, without=without)))


def digest_once(path: Path) -> str:
    """SHA-256 of a file, found as `checksum_once` finds its checksum. Raises OSError for what cannot be read."""
    from hashlib import sha256  # here, for who only looks whether a file is damaged needs none

    return str(_once(path, "digest", [], lambda: sha256(path.read_bytes()).hexdigest()))


def _once(path: Path, kind: str, of: Sequence[object], find: Callable[[], object]) -> Any:
    """What `find` says `of` a file; kept beside it while this machine runs and the file stays as it is."""
    place, now = path.with_name(f".{path.name}.{kind}"), state(path)
    seen = [_started(), *now, *of]
    known = read_json(place) if place.exists() else None
    if isinstance(known, list) and known[:-1] == seen:
        return known[-1]
    found = find()
    if now[-1] + SETTLED < time.time_ns():
        keep_json(place, [*seen, found])
    return found


@cache
def _started() -> str:
    """What tells this run of the machine from any other (Documentation/admin-guide/sysctl/kernel.rst, random)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{os.getpid()} at {time.time_ns()}"  # unknown: no other process can rely on what is kept


@cache
def _checksum(path: Path, _state: tuple[int, ...], start: int, stop: int) -> int:
    with path.open("rb", buffering=0) as file:
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
        if kept == checksum_once(database, without=_SEAL).to_bytes(4, "big"):
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
    try:
        known = _recorded(folder / _RECORD, state(folder / _RECORD))
    except FileNotFoundError:
        return None
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


@lru_cache(maxsize=4)
def _recorded(path: Path, _state: tuple[int, ...]) -> object:
    """The record of a directory, which may be of thousands of files; once in a run for each state of it."""
    return read_json(path)


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


def keep_bytes(path: Path, content: bytes) -> None:
    """As `keep_json`, of bytes; what stands in their place and is no file stays."""
    with suppress(OSError, UsageError):
        write_whole(path, zlib.crc32(content).to_bytes(_CRC, "big") + content)


def read_bytes(path: Path) -> bytes | None:
    """What `keep_bytes` wrote there; None where there is none, and, with a note, where it is damaged."""
    try:
        written = path.read_bytes()
        if zlib.crc32(content := written[_CRC:]).to_bytes(_CRC, "big") == written[:_CRC]:
            return content
    except FileNotFoundError:
        return None
    except OSError:
        pass
    note_damage(path)
    return None


def note_damage(path: Path) -> None:
    """Say that something of the cache is damaged, and that it is made again."""
    log.warning("the cache was damaged: %s is made again", path)

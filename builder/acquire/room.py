"""The room that the cache takes: what lies in it, when it was last used, and what goes when it is too large.

What was used least recently goes first, and nothing that a process uses now (`cache.use`). Only what can be made, or
fetched, again is an entry here; the package lists of apt, the logs and the locks are not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire import sums
from builder.acquire.cache import cache_root, entry_lock, is_held, scratch
from builder.errors import UsageError

KINDS: Final = {
    "source": "prepared kernel source",
    "packages": "downloaded package",
    "unpacked": "unpacked kernel",
    "kernels": "facts of a kernel",
    "headers": "headers of a kernel",
    "toolsets": "compiler of a suite",
    "objects": "objects compiled of a source",
    "verdicts": "what headers reach in a source",
    "reads": "what objects read in a source",
    "narrowed": "who uses changed headers of a source, and where callers are",
    "heads": "functions of a source",
    "maps": "what was found of two objects",
    "templates": "compiled templates",
    "glue": "assembled glue for a kernel",
    "outside": "source of another module",
    "images": "image that was downloaded",
    "samples": "compiled samples",
}
"""Directory of the cache -> what each of its entries is."""
_WHOLE: Final = frozenset({"packages", "unpacked", "headers", "toolsets", "heads", "outside", "images", "samples"})
"""Kinds whose entries appear whole and stay as they are: measured once. The others are when they were used since."""

SIZE: Final = "BESPOKE_CACHE_SIZE"
_SIZES: Final = "sizes.json"
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry: `size` in bytes on disk, `used` in seconds since 1970, `busy` while a process uses it."""

    kind: str
    name: str
    size: int
    used: float
    busy: bool

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


def read_size(text: str, where: str) -> int:
    """Bytes of `20G`, `500M`, `1.5T` or a plain number; UsageError, said of `where`, for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is no size: a number of bytes, or one with K, M, G or T behind it", where=where)
    return int(float(match[1]) * _UNITS[match[2].upper()])


def wanted_size() -> int | None:
    """The bytes that `BESPOKE_CACHE_SIZE` lets the cache have; None without it."""
    text = os.environ.get(SIZE)
    return read_size(text, SIZE) if text else None


def entries() -> list[CacheEntry]:
    """All entries, the one used least recently first."""
    root = cache_root()
    known = sums.read_json(root / _SIZES) or {}
    found = list(_entries(root, known))
    sizes = {entry.key: (entry.size, entry.used) for entry in found if not entry.busy or entry.kind in _WHOLE}
    if {key: tuple(row) for key, row in known.items()} != sizes:
        sums.write_json(root / _SIZES, sizes)
    return sorted(found, key=lambda entry: (entry.used, entry.key))


def _entries(root: Path, known: Mapping[str, tuple[int, float]]) -> Iterator[CacheEntry]:
    """`known`: size by entry, and when it had been used last when it was measured, by nobody just then."""
    for kind in KINDS:
        for path in sorted((root / kind).iterdir()) if (root / kind).is_dir() else ():
            key = f"{kind}/{path.name}"
            lock = entry_lock(root, key)
            try:
                used = lock.stat().st_mtime if lock.exists() else path.lstat().st_mtime
            except FileNotFoundError:
                continue  # taken away meanwhile
            size, then = known.get(key, (0, None))
            if then is None or (then != used and kind not in _WHOLE):
                size = _size(path)
            yield CacheEntry(kind, path.name, size, used, is_held(lock))


def _size(path: Path) -> int:
    """Bytes on disk, of all that lies below; what vanishes meanwhile is left out."""
    total, waiting = 0, [path]
    with contextlib.suppress(FileNotFoundError):
        total = path.lstat().st_blocks * 512
    while waiting:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(waiting.pop()) as rows:
            for row in rows:
                with contextlib.suppress(FileNotFoundError):
                    total += row.stat(follow_symlinks=False).st_blocks * 512
                if row.is_dir(follow_symlinks=False):
                    waiting.append(Path(row.path))
    return total


def prune(limit: int) -> tuple[list[CacheEntry], list[CacheEntry]]:
    """Take entries away until all take at most `limit` bytes together: (those that are gone, those that stay)."""
    found = entries()
    total = sum(entry.size for entry in found)
    gone: list[CacheEntry] = []
    for entry in found:
        if total <= limit:
            break
        if not entry.busy and _take_away(entry):
            gone.append(entry)
            total -= entry.size
    return gone, [entry for entry in found if entry not in gone]


def _take_away(entry: CacheEntry) -> bool:
    """Whether it could be taken; at once for all others, whoever wants it then finds none and makes it anew."""
    root = cache_root()
    with scratch("pruned") as place, open(entry_lock(root, entry.key), "ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(root / entry.kind / entry.name, place / "gone")
        except (BlockingIOError, FileNotFoundError):
            return False
    return True


def keep_within() -> None:
    """Prune to the size that `BESPOKE_CACHE_SIZE` names, if it does."""
    if (limit := wanted_size()) is not None:
        prune(limit)

"""What a prepared tree is left as, by its files: so that a `make` of somebody else's in it does not go unnoticed.

Kept are size and time of every file that something may be made of, the time in whole seconds as archives have it. A
file that is new is none of ours: objects that somebody made there are read by nobody. find(1) lists them: a tree has
80,000. That takes as long as all else that a patch needs which was made before, of which nothing is read but the
files that it changes: so the whole tree is looked at when something is to be made of it (`TreeWatch`).
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

from builder.acquire import sums
from builder.acquire.cache import locked
from builder.acquire.tools import ended
from builder.acquire.whole import write_whole
from builder.errors import BespokeError, ToolError

STATE: Final = ".bespoke/state-3"
_ASKED: Final = ".bespoke/asked-1.json"
"""What the state says of the files that somebody asked for: of 80,000 a fix changes one."""

_LEFT_OUT: Final = (".bespoke", "Documentation", "tools/testing")
"""Our own records, and what nothing of a kernel is made of: a third of the files, with the other architectures."""
_EACH: Final = ("-type", "f", "-printf", "%P\\0%s %Ts\\0")
"""Of each regular file: its name, a zero, its size and its time in s, a zero."""

_ZONE: Final = {"TZ": "UTC"}
"""Without it the C library looks three times for each file whether the zone has changed, though none is shown."""


def keep_state(root: Path) -> None:
    """Record the tree as it is now."""
    write_whole(root / STATE, _listed(root))


def disturbed(root: Path) -> list[str]:
    """The files that are gone or another than when the state was kept; all is well where it never was."""
    place = root / STATE
    if not place.is_file():
        return []
    kept, listed = place.read_bytes(), _listed(root)
    if kept == listed:
        return []
    now = _states(listed)
    return [os.fsdecode(name) for name, state in _states(kept).items() if now.get(name) != state]


class DisturbedError(BespokeError):
    """A prepared tree, in use, is another than it was left as: what is being made of it is of no use."""

    def __init__(self, root: Path, changed: list[str]) -> None:
        super().__init__(f"the prepared source was changed ({told(changed)}): run again", where=root)


def told(changed: list[str]) -> str:
    """The first of the files that are changed, and how many more there are."""
    return f"{changed[0]} and {len(changed) - 1} more" if len(changed) > 1 else changed[0]


class TreeWatch:
    """Makes sure, once and as late as can be, that a prepared tree is as it was left; `again` makes it anew.

    It is made anew while nobody uses it. Where this process does, that is a DisturbedError.
    """

    def __init__(self, root: Path, again: Callable[[], object]) -> None:
        self._root = root
        self._again = again
        self._turn = threading.Lock()
        self._sure = threading.Event()
        self._users = 0

    @contextmanager
    def used(self) -> Iterator[None]:
        """While the tree is in use."""
        with self._turn:
            self._users += 1
        try:
            yield
        finally:
            with self._turn:
                self._users -= 1

    def whole(self) -> None:
        """Be sure of all files; not to be called under the lock of the tree."""
        if self._sure.is_set():
            return
        with self._turn:
            if self._sure.is_set():
                return
            with locked(f"source-{self._root.name}"):  # who generates files in it keeps its state before he lets go
                changed = disturbed(self._root)
            if changed and self._users:
                raise DisturbedError(self._root, changed)
            if changed:
                self._again()
            self._sure.set()

    def file(self, name: str) -> None:
        """Be sure of one file, given by its path in the tree: it is as it was left, or was not there."""
        if not self._sure.is_set() and not self._is_as_left(name):
            self.whole()

    def _is_as_left(self, name: str) -> bool:
        try:
            now = sums.state(self._root / STATE)
        except FileNotFoundError:
            return True
        root, real = os.path.realpath(self._root), os.path.realpath(self._root / name)
        names = {os.path.normpath(name), os.path.relpath(real, root)}  # a link may lead to it
        return all(_left(self._root, now, other) in (None, _state(f"{root}/{other}")) for other in names)


def _left(root: Path, now: tuple[int, ...], name: str) -> str | None:
    """What one state of a tree says of a file, None where it says nothing; kept beside it, as that is megabytes."""
    known = _asked(root, now)
    if name not in known:
        known[name] = _said_of(_kept(root, now), name)
        if now[-1] + sums.SETTLED < time.time_ns():
            sums.keep_json(root / _ASKED, {"of": now, "rows": known})
    return known[name]


@lru_cache(maxsize=1)
def _asked(root: Path, now: tuple[int, ...]) -> dict[str, str | None]:
    """What was asked of that state of the tree before, with the answers; more of them join it."""
    known = sums.read_json(root / _ASKED)
    return dict(known["rows"]) if isinstance(known, dict) and known["of"] == [*now] else {}


@lru_cache(maxsize=1)
def _kept(root: Path, _now: tuple[int, ...]) -> bytes:
    """One state of a tree, read once for all files that are asked for; a zero before each name."""
    return b"\0" + (root / STATE).read_bytes()


def _said_of(listed: bytes, name: str) -> str | None:
    words = b"\0" + os.fsencode(name) + b"\0"
    at = listed.find(words)
    begin = at + len(words)
    return listed[begin : listed.index(b"\0", begin)].decode() if at >= 0 else None


def _state(path: str) -> str:
    """The same of a file as it is now; nothing where it is gone, or no regular file."""
    try:
        now = os.lstat(path)
    except OSError:
        return ""
    return f"{now.st_size} {now.st_mtime_ns // 10**9}" if stat.S_ISREG(now.st_mode) else ""


def _states(listed: bytes) -> dict[bytes, bytes]:
    words = listed.split(b"\0")
    return dict(zip(words[:-1:2], words[1::2], strict=True))


def _other_machines(root: Path) -> list[str]:
    """The folders of architectures that a prepared tree has made nothing for."""
    found = [path for path in root.glob("arch/*") if path.is_dir()]
    ours = [path for path in found if (path / "include/generated").is_dir()]
    return [str(path.relative_to(root)) for path in found if ours and path not in ours]


def _listed(root: Path) -> bytes:
    names = [*_LEFT_OUT, *_other_machines(root)]
    left_out = [word for name in names for word in ("-o", "-path", f"./{name}")][1:]
    found = ended(("find", ".", "(", *left_out, ")", "-prune", "-o", *_EACH), cwd=root, env=_ZONE)
    # What vanishes meanwhile, as a temporary file does, is said on its standard error, and is no failure here.
    if found.status and not re.search(rb"No such file or directory", found.err):
        raise ToolError(f"find failed: {os.fsdecode(found.err).strip()}", where=root)
    return found.out

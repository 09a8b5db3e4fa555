"""Files that appear whole or not at all: every result, every file of the cache, the trail on this machine.

The content is written beside its place under a name of its own, which then
takes the place. Only a regular file or a new name can be such a place: a rename
over a device or a FIFO would take it away from everybody who uses it. Of a
symbolic link it is the target that is written, and a file that is replaced keeps
its owner and its permission bits.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from builder.errors import UsageError

#: permission bits of a new file
_NEW: Final = 0o644

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def check_place(path: Path) -> None:
    """UsageError where `path` leads to something that cannot be replaced by a file, and what that is."""
    _place(path)


def _place(path: Path) -> tuple[Path, os.stat_result | None]:
    """Where a file that is written as `path` stands in the end, and the state of the one that it replaces."""
    try:
        state = os.stat(path)
    except FileNotFoundError:  # a new name, or a link to one
        return Path(os.path.realpath(path)), None
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=path) from error
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no regular file")
        raise UsageError(f"is {kind}: only a regular file can be replaced", where=path)
    return Path(os.path.realpath(path)), state


@contextmanager
def whole_file(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """An empty file to be filled, which then takes the place of `path`; nothing is left after an exception.

    Directories that lack are made. With `sync` the content is on the disk before it takes the place.
    Raises UsageError as `check_place`, OSError where it cannot be written.
    """
    import tempfile  # here, for it is slow to import and who only asks for a place writes nothing

    place, before = _place(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    try:
        yield Path(name)
        if before is not None:
            _give(descriptor, before, path)
        os.chmod(descriptor, _NEW if before is None else stat.S_IMODE(before.st_mode))
        if sync:
            os.fsync(descriptor)
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _give(descriptor: int, before: os.stat_result, path: Path) -> None:
    """Let the new file belong to whom the replaced one belongs; before its mode is set, which this changes."""
    owner = before.st_uid, before.st_gid
    made = os.fstat(descriptor)
    if owner != (made.st_uid, made.st_gid):
        try:
            os.chown(descriptor, *owner)
        except PermissionError as error:
            raise UsageError("belongs to somebody else, and would not after it is replaced", where=path) from error


def write_whole(path: Path, data: bytes | str, *, sync: bool = False) -> None:
    """Write `data` (text as UTF-8, bytes that were none as they were) to `path`; as `whole_file`."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    with whole_file(path, sync=sync) as temporary:
        temporary.write_bytes(raw)

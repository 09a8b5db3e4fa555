"""The cache: what was downloaded, unpacked and prepared, shared between runs and processes.

Every entry is a directory or a file that appears whole or not at all: it is
made under `tmp/` of the same file system, then renamed into place while an
advisory lock is held. Whoever is interrupted leaves at most a directory under
`tmp/`, which the next run removes. Beside the files of a directory stand their
checksums (`sums`): one that is damaged is found when it is used, and made again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.acquire import sums
from builder.errors import ToolError


def cache_root() -> Path:
    """`$BESPOKE_CACHE`, else `$XDG_CACHE_HOME/bespoke`, else `~/.cache/bespoke`; created if absent."""
    override = os.environ.get("BESPOKE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = override or os.path.join(base, "bespoke")
    if not os.path.isdir(root):  # it is asked for a hundred times in a run
        try:
            os.makedirs(root, exist_ok=True)
        except OSError as error:
            raise ToolError(f"the cache directory cannot be made: {error.strerror}", where=root) from error
    return Path(os.path.realpath(root))


def clean_name(text: str) -> str:
    """`text` as one path component: what is not plain becomes `_`; never empty, never hidden."""
    plain = "".join(c if c.isalnum() or c in "._+-~" else "_" for c in text)
    return plain.lstrip(".") or "_"


class _Thread(threading.local):
    """Descriptors of locks that programs which this thread starts meanwhile hold too (see `locked`)."""

    def __init__(self) -> None:
        self.inherited_locks: set[int] = set()


thread = _Thread()


@contextmanager
def locked(name: str, *, shared: bool = False, inherited: bool = False) -> Iterator[int]:
    """Hold the cache's lock `name`, alone or `shared`; the kernel drops it when the last holder ends.

    Yields its descriptor, for a program that is to hold it too (`held` of `tools.run`).

    An `inherited` lock is held by the programs that this thread runs under it as well:
    when this process is killed, nobody else begins while one of them still
    writes.
    """
    folder = cache_root() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / f"{clean_name(name)}.lock", "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        if not inherited:
            yield handle.fileno()
            return
        thread.inherited_locks.add(handle.fileno())
        try:
            yield handle.fileno()
        finally:
            thread.inherited_locks.discard(handle.fileno())


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A directory of one's own under the cache's `tmp/`, removed at the end.

    Its lock file says that it is in use; directories whose maker has died are
    removed here, so an interrupted run costs disk space only until the next.
    """
    import tempfile  # here, for it is slow to import and who only reads the cache needs none

    base = cache_root() / "tmp"
    base.mkdir(exist_ok=True)
    with locked("scratch"):
        _sweep(base)
        path = Path(tempfile.mkdtemp(prefix=f"{clean_name(prefix)}.", dir=base))
        handle = open(path.with_name(f"{path.name}.inuse"), "ab")  # noqa: SIM115 - held beyond this block
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield path
    finally:
        remove_tree(path)
        Path(handle.name).unlink(missing_ok=True)
        handle.close()


def _sweep(base: Path) -> None:
    for path in base.iterdir():
        if path.suffix == ".inuse":
            if not path.with_suffix("").exists() and not is_held(path):
                path.unlink(missing_ok=True)
        elif not is_held(path.with_name(f"{path.name}.inuse")):  # which is made under the scratch lock
            remove_tree(path)
            path.with_name(f"{path.name}.inuse").unlink(missing_ok=True)


def is_held(lock_file: Path) -> bool:
    """Whether somebody holds `lock_file`, shared or alone; a missing one is nobody's."""
    try:
        with open(lock_file, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def remove_tree(path: Path) -> None:
    """Remove a file or a directory, symbolic links not followed; a missing one is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


#: the cache and its entries that this process uses, and the descriptors of the locks that say so until it ends
_used: tuple[Path, dict[str, int]] = (Path(), {})


def use(kind: str, name: str) -> None:
    """Note that an entry of the cache is used now: this process holds its lock until it ends, and nobody prunes it.

    The time of the lock file is that of the last use. Of what a kind keeps by trees (`objects/TREE`) the entry is all
    that belongs to one tree.
    """
    global _used
    root, entry = cache_root(), entry_of(kind, name)
    if _used[0] != root:
        left, _used = _used[1], (root, {})
        for descriptor in left.values():
            os.close(descriptor)
    if entry in _used[1]:
        return
    lock = entry_lock(root, entry)
    try:
        lock.parent.mkdir(exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return  # a cache that only can be read is pruned by nobody
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.utime(descriptor)
    if _used[1].setdefault(entry, descriptor) != descriptor:  # another thread was first
        os.close(descriptor)


def use_path(path: Path) -> None:
    """The same of the entry that a path lies in, if it is one of the cache."""
    root = cache_root()
    if path.is_relative_to(root) and len(parts := path.relative_to(root).parts) > 1:
        use(parts[0], parts[1])


def entry_of(kind: str, name: str) -> str:
    """KIND/NAME of what `cache_path(kind, name)` is a part of, which is pruned as one."""
    kind, _, tree = kind.partition("/")
    return f"{kind}/{clean_name(tree or name)}"


def entry_lock(root: Path, entry: str) -> Path:
    """The lock of an entry: shared by those who use it, and held alone by who takes it away."""
    return root / "locks" / f"entry-{clean_name(entry)}.lock"


def kept(kind: str, name: str) -> Path | None:
    """The cached directory `kind/name` where it is there and each file in it as it was made.

    One that is damaged is taken away, with a note.
    """
    target = cache_path(kind, name)
    if not target.exists():
        return None
    bad = sums.damaged(target) if target.is_dir() else target
    if bad is None:
        return target
    sums.note_damage(bad)
    remove_tree(target)
    return None


def published(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """The cached directory `kind/name`; `make(path)` fills it first where it is absent.

    `make` sees an empty directory that will be renamed: nothing in it may hold
    its own absolute path (use `cache_path` for the final one). Two processes
    that ask for the same one do the work once.
    """
    if (target := kept(kind, name)) is not None:
        return target
    with locked(f"{kind}-{clean_name(name)}", inherited=True):
        return published_unlocked(kind, name, make)


def published_unlocked(kind: str, name: str, make: Callable[[Path], None]) -> Path:
    """As `published`, for small work: two processes may both do it, and the first one's result stays."""
    if (found := kept(kind, name)) is not None:
        return found
    target = cache_path(kind, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch(target.name) as work:
        filled = work / "filled"
        filled.mkdir()
        make(filled)
        sums.record(filled)
        try:
            os.replace(filled, target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def cache_path(kind: str, name: str) -> Path:
    """Where `published(kind, name, ...)` puts its directory; who asks uses it (`use`)."""
    use(kind, name)
    return cache_root() / kind / clean_name(name)


def path_of(kind: str, *made_of: object) -> Path:
    """Where in the cache something is kept by all that it is made of, told apart by `repr`."""
    import hashlib  # here, for who only cleans the cache needs none

    return cache_path(kind, hashlib.sha256(repr(made_of).encode("utf-8", "surrogateescape")).hexdigest()[:32])

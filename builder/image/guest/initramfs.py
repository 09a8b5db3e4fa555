"""The root file system of the guest: a newc cpio archive, made in memory.

Format: `Documentation/driver-api/early-userspace/buffer-format.rst`. An archive
may follow another one; the later file wins, so that a caller's files can
replace what is here.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from builder.acquire.program import names_loader
from builder.errors import InputError, ToolError, UsageError

BUSYBOX_PLACES = ("/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static")


@dataclass(frozen=True, slots=True)
class Node:
    """One entry of an archive; `mode` has the file type, `device` is (major, minor)."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Node:
    return Node(path, stat.S_IFDIR | 0o755)


def program(path: str, data: bytes) -> Node:
    return Node(path, stat.S_IFREG | 0o755, data)


def archive(nodes: Iterable[Node]) -> bytes:
    """The newc archive of `nodes`, parents made where they are missing, trailer included."""
    parts: list[bytes] = []
    known: set[str] = set()
    for node in nodes:
        path = node.path.strip("/")
        if not path or ".." in PurePosixPath(path).parts:
            raise UsageError(f"not a path inside the guest: {node.path!r}")
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) not in known and str(parent) != ".":
                known.add(str(parent))
                parts.append(_entry(directory(str(parent)), len(known)))
        if path in known and stat.S_ISDIR(node.mode):
            continue
        known.add(path)
        parts.append(_entry(Node(path, node.mode, node.data, node.device), len(known)))
    parts.append(_entry(Node("TRAILER!!!", 0), 0))
    return b"".join(parts)


def _entry(node: Node, inode: int) -> bytes:
    name = node.path.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, node.mode, 0, 0, links, 0, len(node.data), 0, 0, *node.device, len(name), 0)
    return _padded(b"070701" + b"".join(b"%08X" % f for f in fields) + name) + _padded(node.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def base_nodes(script: str) -> list[Node]:
    """What every guest has: busybox, a console and the agent as /init."""
    return [
        *map(directory, ("bin", "dev", "proc", "sys", "tmp", "run", "lib/modules")),
        # Without it the kernel starts /init with no standard output.
        Node("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        program("bin/busybox", busybox().read_bytes()),
        program("init", script.encode("utf-8", "surrogateescape")),
    ]


def user_nodes(files: Mapping[str, bytes | Path]) -> list[Node]:
    """The caller's files, by path in the guest; executable, since some are run and none is secret."""
    return [program(path, _content(value)) for path, value in files.items()]


def _content(value: bytes | Path) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return value.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=value) from None


def busybox() -> Path:
    """The statically linked busybox of this machine, or a ToolError that says what to install."""
    places = [*BUSYBOX_PLACES, shutil.which("busybox") or ""]
    for place in dict.fromkeys(filter(None, places)):
        if Path(place).is_file() and is_static(Path(place)):
            return Path(place)
    raise ToolError("no statically linked busybox for the guest (Debian package busybox-static)")


@cache
def is_static(path: Path) -> bool:
    """An ELF-64 program without PT_INTERP, so that it runs where there is no C library."""
    return names_loader(path) is False

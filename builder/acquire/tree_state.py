"""What a prepared tree is left as, by its files: so that a `make` of somebody else's in it does not go unnoticed.

Kept are size and time of every file that something may be made of, the time in whole seconds as archives have it. A
file that is new is none of ours: objects that somebody made there are read by nobody. find(1) lists them: a tree has
80,000.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from builder.acquire.tools import ended
from builder.acquire.whole import write_whole
from builder.errors import ToolError

STATE: Final = ".bespoke/state-3"

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

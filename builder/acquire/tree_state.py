"""What a prepared tree is left as, by its files: so that a `make` of somebody else's in it does not go unnoticed.

Kept are size and time of every file, the time in whole seconds as archives have it. A file that is new is none of
ours: objects that somebody made there are read by nobody. find(1) lists them: a tree has 80,000.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from builder.acquire.tools import ended
from builder.acquire.whole import write_whole
from builder.errors import ToolError

STATE: Final = ".bespoke/state-2"

_LIST: Final = ("find", ".", "-path", "./.bespoke", "-prune", "-o", "-type", "f", "-printf", "%P\\0%s %Ts\\0")
"""Of each regular file but our own records: its name, a zero, its size and its time in s, a zero."""


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


def _listed(root: Path) -> bytes:
    found = ended(_LIST, cwd=root)
    # What vanishes meanwhile, as a temporary file does, is said on its standard error, and is no failure here.
    if found.status and not re.search(rb"No such file or directory", found.err):
        raise ToolError(f"find failed: {os.fsdecode(found.err).strip()}", where=root)
    return found.out

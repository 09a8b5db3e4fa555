"""What a prepared tree is left as, by its files: so that a `make` of somebody else's in it does not go unnoticed.

Kept are size and time of every file, the time in whole seconds as archives have it. A file that is new is none of
ours: objects that somebody made there are read by nobody.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builder.acquire.whole import write_whole

STATE: Final = ".bespoke/state-1.json"


def keep_state(root: Path) -> None:
    """Record the tree as it is now."""
    write_whole(root / STATE, json.dumps(dict(_files(root)), separators=(",", ":")))


def disturbed(root: Path) -> list[str]:
    """The files that are gone or another than when the state was kept; all is well where it never was."""
    place = root / STATE
    if not place.is_file():
        return []
    now = dict(_files(root))
    kept: dict[str, list[int]] = json.loads(place.read_text("utf-8"))
    return [name for name, state in kept.items() if now.get(name) != state]


def _files(root: Path) -> Iterator[tuple[str, list[int]]]:
    """Name -> [size, modification time in s] of each regular file below `root` but our own records."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if name != ".bespoke":
                        folders.append(f"{name}/")
                elif stat.S_ISREG((found := entry.stat(follow_symlinks=False)).st_mode):
                    yield name, [found.st_size, int(found.st_mtime)]

"""Where the modules of a tree lie: by a walk, or as an earlier walk found them where no folder has changed since.

A folder's time of change is set by the system with each file that comes, goes or is renamed in it, and by nobody
else; to ask a thousand folders for it takes a fifth of the time that reading them takes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from builder.acquire import sums

SUFFIXES: Final = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
_KEPT: Final = "places.json"

_State = tuple[int, int]
"""The number of a folder and the time of its last change in ns."""


def module_name(path: str | Path) -> str | None:
    """The name under which the kernel knows the module in this file; None where the file is none."""
    stem, dot, suffix = os.fspath(path).rpartition("/")[2].partition(".ko")
    return stem.replace("-", "_") if dot and ".ko" + suffix in SUFFIXES else None


def module_places(root: Path, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """(place below `root`, name) of every module there, in path order, `updates/` first.

    What a walk finds is kept in `folder`, if one is given. Texts, for there are thousands, and a path takes longer to
    make than the rest of it.
    """
    kept = folder / _KEPT if folder is not None else None
    found = _unchanged(root, kept)
    for place in _walked(root, kept) if found is None else found:
        if (name := module_name(place)) is not None:
            yield place, name


def _walked(root: Path, kept: Path | None) -> list[str]:
    begun = time.time_ns()
    top = os.path.join(root, "")
    states: dict[str, _State] = {}
    places: list[str] = []
    unread: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unread.append):
        # depmod's default search order; build and source lead to kernel headers.
        wanted = (name for name in folders if name not in ("build", "source"))
        folders[:] = sorted(wanted, key=lambda name: (name != "updates", name))
        below = os.path.join(folder, "").removeprefix(top)
        states[below] = _state(folder)
        places += [below + file for file in sorted(files) if module_name(file) is not None]
    # A change while this went on, or in the same instant as the one before, would not be seen.
    if kept is not None and not unread and all(changed < begun - sums.SETTLED for _, changed in states.values()):
        document = {"root": top, "folders": list(states), "states": list(states.values()), "places": "\0".join(places)}
        sums.keep_json(kept, document)
    return places


def _unchanged(root: Path, kept: Path | None) -> list[str] | None:
    """What a walk has found before; None where there was none, or anything has come, gone or changed its name since."""
    known = sums.read_json(kept) if kept is not None else None
    if not isinstance(known, Mapping) or known["root"] != os.path.join(root, ""):
        return None
    try:
        top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for folder, state in zip(known["folders"], known["states"], strict=True):
            if list(_state(folder or ".", top)) != state:
                return None
    except OSError:
        return None
    finally:
        os.close(top)
    return str(known["places"]).split("\0") if known["places"] else []


def _state(folder: str, top: int | None = None) -> _State:
    found = os.stat(folder, dir_fd=top)
    return found.st_ino, found.st_ctime_ns

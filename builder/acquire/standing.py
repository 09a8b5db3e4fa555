"""How patches stand to a source tree: whether they can be applied, or have been already."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.acquire.hunks import Hunk
from builder.acquire.patchfile import NO_CODE, FileChange, apply_all, judge, located, read_patch
from builder.errors import InputError


@dataclass(frozen=True, slots=True)
class Standing:
    """`applied`: the tree has the patches' changes. Else `misfit` says why they do not fit, empty if they do."""

    applied: bool
    misfit: str = ""


def standing(patches: Sequence[Path], root: Path) -> Standing:
    """How `patches`, one on the other, stand to the tree at `root`.

    They are applied already where they do not fit, but all of them can be taken back, the last one first. Files that
    a live patch cannot carry, or that are no code, decide nothing. Raises InputError for an unreadable patch.
    """
    changes = [located(change, lambda name: (root / name).exists()) for path in patches for change in read_patch(path)]
    telling = [change for change in changes if not NO_CODE.fullmatch(change.path) and judge(change) is None]

    def read(path: str) -> bytes | None:
        try:
            return (root / path).read_bytes()
        except FileNotFoundError:
            return None

    misfit = _misfit(telling, read)
    # What leaves nothing behind but blank lines and braces could have been anywhere.
    told = telling and all(re.search(r"\w", "".join(hunk.new)) for change in telling for hunk in change.hunks)
    applied = bool(misfit and told) and not _misfit([_back(change) for change in reversed(telling)], read)
    return Standing(applied, "" if applied else misfit)


def _misfit(changes: Iterable[FileChange], read: Callable[[str], bytes | None]) -> str:
    try:
        apply_all(changes, read)
    except InputError as error:
        return str(error)
    return ""


def _back(change: FileChange) -> FileChange:
    """What takes the change back; of a new file its content, which must all be there."""
    hunks: list[Hunk] = []
    grown = 0
    for hunk in change.hunks:
        kept = tuple((new, old) for old, new in hunk.kept)
        start = hunk.start + grown + (not hunk.old) - (not hunk.new)
        hunks.append(Hunk(start, hunk.new, hunk.old, kept))
        grown += len(hunk.new) - len(hunk.old)
    return replace(change, hunks=tuple(hunks), kind="modified")

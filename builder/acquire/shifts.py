"""Where the lines of a file are after a source patch: what its hunks say, and nothing of what the lines hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # to read a patch takes a parser that who has a Shift needs none of
    from builder.acquire.patchfile import FileChange


@dataclass(frozen=True, slots=True)
class Shift:
    """How a source patch moves the lines of one file (its path in the tree): (old, count, new, count) of each hunk.

    Lines count from 1; those of a hunk that stay are in `kept`, old line -> new line. `edited` are the numbers that
    the text of the lines has which go, and which come. `before` is what an earlier patch did to the same file.
    """

    path: str
    hunks: tuple[tuple[int, int, int, int], ...]
    kept: Mapping[int, int] = field(default_factory=dict)
    before: Shift | None = None
    edited: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())

    def moved(self, line: int) -> int | None:
        """Where an old line is in the new file; None for one that the patch removes."""
        if self.before is not None:
            earlier = self.before.moved(line)
            if earlier is None:
                return None
            line = earlier
        offset = 0
        for old, count, new, fresh in self.hunks:
            if line < old:
                break
            if line < old + count:
                return self.kept.get(line)
            offset = new + fresh - old - count
        return line + offset

    def writes(self, old: int, new: int) -> bool:
        """Whether the patch takes the one number out of the text and puts the other in."""
        gone, come = self.edited
        return old in gone and new in come


_NUMBER: Final = re.compile(r"\b(0[xX][0-9a-fA-F]+|[1-9]\d*)[uUlL]*\b")


def _numbers(lines: Iterable[str]) -> frozenset[int]:
    return frozenset(int(found[1], 0) for line in lines for found in _NUMBER.finditer(line))


def shifts_of(changes: Iterable[FileChange]) -> tuple[Shift, ...]:
    """How each file is moved whose lines the changes leave something of; one shift for each, in order of first change.

    Hunks are taken to stand where they say.
    """
    found: dict[str, Shift] = {}
    for change in changes:
        if change.kind in ("modified", "renamed"):
            found[change.path] = _shift(change, found.get(change.path))
    return tuple(found.values())


def _shift(change: FileChange, before: Shift | None) -> Shift:
    hunks: list[tuple[int, int, int, int]] = []
    kept: dict[int, int] = {}
    gone: list[str] = []
    come: list[str] = []
    grown = 0
    for hunk in change.hunks:
        # A hunk without old lines names the one that it stands behind.
        old = hunk.start if hunk.old else hunk.start + 1
        new = old + grown
        hunks.append((old, len(hunk.old), new, len(hunk.new)))
        kept |= {old + a: new + b for a, b in hunk.kept}
        stay = [{row[side] for row in hunk.kept} for side in (0, 1)]
        gone += [line for k, line in enumerate(hunk.old) if k not in stay[0]]
        come += [line for k, line in enumerate(hunk.new) if k not in stay[1]]
        grown += len(hunk.new) - len(hunk.old)
    edited = _numbers(gone), _numbers(come)
    if before is not None:
        edited = before.edited[0] | edited[0], before.edited[1] | edited[1]
    return Shift(change.path, tuple(hunks), kept, before, edited)

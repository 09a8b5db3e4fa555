"""Where the lines of a file are after a source patch: what its hunks say, and nothing of what the lines hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # to read a patch takes a parser that who has a Shift needs none of
    from builder.acquire.patchfile import FileChange


@dataclass(frozen=True, slots=True)
class Shift:
    """How a source patch moves the lines of one file (its path in the tree): (old, count, new, count) of each hunk.

    Lines count from 1; those of a hunk that stay are in `kept`, old line -> new line. `before` is what an earlier
    patch did to the same file.
    """

    path: str
    hunks: tuple[tuple[int, int, int, int], ...]
    kept: Mapping[int, int] = field(default_factory=dict)
    before: Shift | None = None

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
    grown = 0
    for hunk in change.hunks:
        # A hunk without old lines names the one that it stands behind.
        old = hunk.start if hunk.old else hunk.start + 1
        new = old + grown
        hunks.append((old, len(hunk.old), new, len(hunk.new)))
        kept |= {old + a: new + b for a, b in hunk.kept}
        grown += len(hunk.new) - len(hunk.old)
    return Shift(change.path, tuple(hunks), kept, before)

"""Hunks of a patch, fitted to a text: where each stands, how far it has moved, why one does not fit.

Hunks apply where their context fits exactly, at the place they name or moved
as a whole (the nearest fit; two equally near ones are an error). There is no fuzz:
a fix that almost fits is not the fix that was reviewed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from typing import Final


@dataclass(frozen=True, slots=True)
class Hunk:
    """`start` is the first line in the old file (from 1; 0 for an empty one); lines keep their line ends.

    `kept` are the lines that stay: (number in `old`, number in `new`), from 0.
    """

    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    kept: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Fitted:
    """A text after the hunks that fit; `moved` tells of those that stand elsewhere, `misfits` of the others.

    `hunks` are those that fit, by where they really stand in the old text.
    """

    text: str
    hunks: tuple[Hunk, ...]
    moved: tuple[str, ...]
    misfits: tuple[str, ...]


_EXPLAINED: Final = 50
"""Hunks of a file of which it is said why they do not fit: to find that out takes a pass over the file for each."""


def fit(text: str, hunks: Sequence[Hunk], patch: str) -> Fitted:
    """The `hunks` of the patch named `patch`, one after the other."""
    lines = StringIO(text, newline="\n").readlines()  # not splitlines(): a form feed ends no line of a patch
    shift = grown = floor = 0
    fitted: list[Hunk] = []
    moved: list[str] = []
    misfits: list[str] = []
    for number, hunk in enumerate(hunks, start=1):
        name = f"hunk {number} of {len(hunks)} of {patch}"
        named = max(hunk.start - 1, 0) if hunk.old else hunk.start
        wanted = named + shift
        place = _place(lines, hunk.old, wanted, floor)
        if place is None:
            why = _why(lines, hunk, wanted, floor, grown) if len(misfits) < _EXPLAINED else ""
            misfits.append(f"{name} does not fit (line {hunk.start}){why}")
            continue
        if place - grown != named:
            moved.append(f"{name}, made for line {hunk.start}, applies {_offset(place - grown - named)}")
        fitted.append(replace(hunk, start=hunk.start + place - grown - named))
        lines[place : place + len(hunk.old)] = hunk.new
        shift += place - wanted + len(hunk.new) - len(hunk.old)
        grown += len(hunk.new) - len(hunk.old)
        floor = place + len(hunk.new)
    return Fitted("".join(lines), tuple(fitted), tuple(moved), tuple(misfits))


def _offset(lines: int) -> str:
    return f"{abs(lines)} line{'s' * (abs(lines) != 1)} further {'down' if lines > 0 else 'up'}"


def _place(lines: list[str], old: tuple[str, ...], wanted: int, floor: int) -> int | None:
    """Where `old` stands in `lines` at or after `floor`, nearest to `wanted`; None if nowhere or in two."""

    def fits(at: int) -> bool:
        return floor <= at <= len(lines) - len(old) and tuple(lines[at : at + len(old)]) == old

    if fits(wanted):
        return wanted
    if not old:
        return None
    places = _nearest((at for at, line in enumerate(lines) if line == old[0] and fits(at)), wanted)
    if not places or (len(places) > 1 and abs(places[0] - wanted) == abs(places[1] - wanted)):
        return None
    return places[0]


def _nearest(places: Iterable[int], wanted: int) -> list[int]:
    return sorted(places, key=lambda at: abs(at - wanted))


def _why(lines: list[str], hunk: Hunk, wanted: int, floor: int, grown: int) -> str:
    """The end of the sentence that says that a hunk does not fit; `grown` is how much longer the text already is."""
    if _place(lines, hunk.new, wanted, floor) is not None:
        return " - it is applied already"
    if not hunk.old:
        return ""
    alike = _nearest((at for at in range(len(lines)) if tuple(lines[at : at + len(hunk.old)]) == hunk.old), wanted)
    if len(alike) > 1:
        return f": it fits at lines {alike[0] + 1 - grown} and {alike[1] + 1 - grown}, which are equally near"
    if alike:
        return f": it fits at line {alike[0] + 1 - grown} only, before the hunk that precedes it"
    near = _most_alike(lines, hunk.old, wanted)
    if near is None:
        return ": no line of it is there"
    there = [*lines[near : near + len(hunk.old)], *[""] * len(hunk.old)]
    differ = [n for n, line in enumerate(hunk.old) if there[n] != line]
    at = differ[0]
    shown = f'"{_shown(there[at])}"' if there[at] else "the end of the file"
    blank = all(there[n].split() == hunk.old[n].split() for n in differ)
    only = "; they differ in white space only" if blank else ""
    return f': line {near + at + 1 - grown} is {shown}, the patch has "{_shown(hunk.old[at])}"{only}'


def _most_alike(lines: list[str], old: tuple[str, ...], wanted: int) -> int | None:
    """Where most lines of `old` stand, the nearest of such places; lines count that differ in white space only.

    None where none stands. A line without a letter counts for nothing.
    """
    bare = ["".join(line.split()) for line in lines]
    telling = [(n, text) for n, line in enumerate(old) if re.search(r"\w", text := "".join(line.split()))]
    where: dict[str, list[int]] = {}
    for at, text in enumerate(bare):
        where.setdefault(text, []).append(at)
    scores: dict[int, int] = {}
    for n, text in telling:
        for at in where.get(text, ()):
            if at >= n:
                scores[at - n] = scores.get(at - n, 0) + 1
    return min(scores, key=lambda at: (-scores[at], abs(at - wanted)), default=None)


def _shown(line: str) -> str:
    """A line of source within a sentence: without its end, white space at its ends spelled where it decides."""
    return line.removesuffix("\n").replace("\t", "\\t").replace("\r", "\\r")

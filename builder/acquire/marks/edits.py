"""Changes of a file's text that keep its lines where they are: what is put in has no line of its own."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from builder.acquire.marks.place import MarkSpot
from builder.acquire.marks.words import RETVAL_NAME, Expression


@dataclass(frozen=True, slots=True)
class Tagged:
    """An expression that is to be found again: `tag` says of which mark it is."""

    text: str
    tag: tuple[int, Expression]


Text = Sequence["str | Tagged"]


@dataclass(frozen=True, slots=True)
class Edit:
    """The bytes [start, end) of a file become `pieces`; of two at one place the later given comes later."""

    start: int
    end: int
    pieces: Text


@dataclass(frozen=True, slots=True)
class Found:
    """Where a tagged piece came to lie, in bytes."""

    tag: tuple[int, Expression]
    start: int
    end: int


def file_edits(statements: Iterable[tuple[MarkSpot, Text]]) -> dict[str, list[Edit]]:
    """The edits of each file that put statements, each a block, at their spots; those at one spot in their order."""
    by_spot: defaultdict[tuple[str, int], list[tuple[MarkSpot, Text]]] = defaultdict(list)
    for spot, statement in statements:
        by_spot[spot.source.path, spot.start].append((spot, statement))
    out: defaultdict[str, list[Edit]] = defaultdict(list)
    for (path, _), rows in by_spot.items():
        out[path] += _spot_edits(rows)
    return dict(out)


def _spot_edits(rows: Sequence[tuple[MarkSpot, Text]]) -> list[Edit]:
    """The edits for all that is put before one statement, so that nothing else of the function means anything else."""
    before = [piece for spot, text in rows if spot.how != "return" for piece in (*text, " ")]
    leaving = [piece for spot, text in rows if spot.how == "return" for piece in (*text, " ")]
    spot = next((spot for spot, _ in rows if spot.how == "return"), rows[0][0])
    if leaving:
        return _return_edits(spot, before, leaving)
    braces = next((spot for spot, _ in rows if spot.how == "braces"), None)
    if braces is None:
        return [Edit(spot.start, spot.start, before)]
    return [Edit(spot.start, spot.start, ["{ ", *before]), Edit(braces.end, braces.end, [" }"])]


def _return_edits(spot: MarkSpot, before: Text, leaving: Text) -> list[Edit]:
    """A return becomes a block in which its value is known before `leaving`."""
    if spot.value is None:
        return [Edit(spot.start, spot.start, ["{ ", *before, *leaving]), Edit(spot.end, spot.end, [" }"])]
    first, last = spot.value
    if spot.function.returns is None:  # return f(); in a function that returns nothing itself
        return [
            Edit(spot.start, first, ["{ ", *before]),
            Edit(last, spot.end, ["; ", *leaving, "return; }"]),
        ]
    return [
        Edit(spot.start, first, ["{ ", *before, f"{spot.function.returns} {RETVAL_NAME} = ("]),
        Edit(last, spot.end, ["); ", *leaving, f"return {RETVAL_NAME}; }}"]),
    ]


def applied(text: bytes, edits: Iterable[Edit]) -> tuple[bytes, list[Found]]:
    """The text with all edits, and where their tagged pieces lie in it."""
    out, at, size = [], 0, 0
    found: list[Found] = []
    for edit in sorted(edits, key=lambda e: (e.start, e.end)):
        out.append(text[at : edit.start])
        size += len(out[-1])
        for piece in edit.pieces:
            raw = (piece.text if isinstance(piece, Tagged) else piece).encode("utf-8", "surrogateescape")
            if isinstance(piece, Tagged):
                found.append(Found(piece.tag, size, size + len(raw)))
            out.append(raw)
            size += len(raw)
        lines = b"\n" * text.count(b"\n", max(at, edit.start), edit.end)
        out.append(lines)
        size += len(lines)
        at = max(at, edit.end)
    out.append(text[at:])
    return b"".join(out), found


def as_patch(changed: Mapping[str, tuple[bytes, bytes]], head: str) -> str:
    """A unified diff of files, {path: (before, after)}, under the text `head`; what is after may be longer at the end,
    otherwise each line stays where it is."""
    parts = [head.rstrip("\n"), "\n"]
    for path in sorted(changed):
        before, after = ([*map(_text, io.BytesIO(text))] for text in changed[path])
        parts += [f"--- a/{path}\n", f"+++ b/{path}\n", *_hunks(before, after)]
    return "".join(parts)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


_CONTEXT = 3


def _hunks(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    changed = [n for n, line in enumerate(before) if line != after[n]]
    if len(after) > len(before):
        changed.append(len(before))
    while changed:
        first = last = changed.pop(0)
        while changed and changed[0] - last <= 2 * _CONTEXT:
            last = changed.pop(0)
        start, stop = max(0, first - _CONTEXT), min(len(before), last + 1 + _CONTEXT)
        added = len(after) - len(before) if last == len(before) else 0
        size = stop - start
        yield f"@@ -{start + 1},{size} +{start + 1},{size + added} @@\n"
        for n in range(start, stop):
            same = before[n] == after[n]
            yield from [_line(" ", before[n])] if same else [_line("-", before[n]), _line("+", after[n])]
        yield from (_line("+", line) for line in after[len(after) - added :])


def _line(sign: str, line: str) -> str:
    return f"{sign}{line}" if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n"

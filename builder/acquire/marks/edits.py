"""Changes of a file's text that keep its lines where they are: what is put in has no line of its own."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
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


def statement_edits(spot: MarkSpot, statement: Text) -> list[Edit]:
    """The edits that put `statement`, a block, at a spot, so that nothing else of the function means anything else."""
    if spot.how == "before":
        return [Edit(spot.start, spot.start, [*statement, " "])]
    if spot.how == "braces":
        return [Edit(spot.start, spot.start, ["{ ", *statement, " "]), Edit(spot.end, spot.end, [" }"])]
    if spot.value is None:
        return [Edit(spot.start, spot.start, ["{ ", *statement, " "]), Edit(spot.end, spot.end, [" }"])]
    first, last = spot.value
    function = spot.function
    if function.is_void:  # return f(); in a function that returns nothing itself
        return [
            Edit(spot.start, first, ["{ "]),
            Edit(last, spot.end, ["; ", *statement, " return; }"]),
        ]
    # Converted as the function converts it: its own type is that of a call, which is not made.
    kind = "long" if function.declarator is None else f"__typeof__({function.name}({', '.join(function.parameters)}))"
    return [
        Edit(spot.start, first, ["{ ", f"{kind} {RETVAL_NAME} = ("]),
        Edit(last, spot.end, ["); ", *statement, f" return {RETVAL_NAME}; }}"]),
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
        at = max(at, edit.end)
    out.append(text[at:])
    return b"".join(out), found


def as_patch(changed: Mapping[str, tuple[bytes, bytes]], head: str) -> str:
    """A unified diff of files, {path: (before, after)}, under the text `head`."""
    parts = [head.rstrip("\n"), "\n"]
    for path in sorted(changed):
        before, after = (text.decode("utf-8", "surrogateescape").splitlines(keepends=True) for text in changed[path])
        for line in difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"):
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)

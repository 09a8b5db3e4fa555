"""Two recordings side by side: every document that differs, and the first lines in which it does."""

from __future__ import annotations

import difflib
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

from tests.results.recording import PACKED

WINDOW: Final = 40
"""Lines from the first that differs on that are compared further."""
CONTEXT: Final = 2
SHOWN: Final = 16
WIDTH: Final = 160


@dataclass(frozen=True, slots=True)
class Difference:
    """A document that is not the same in both, why, and some lines that show it."""

    name: str
    why: str
    lines: Sequence[str] = ()


def documents(folder: Path, parts: Sequence[str] = ()) -> dict[str, Path]:
    """The documents of a recording by name; of parts of it (none: of all)."""
    places = [folder / part for part in parts] or [folder]
    found = sorted(path for place in places for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path for path in found}


def compare(first: Path, second: Path, parts: Sequence[str] = ()) -> list[Difference]:
    """What differs between two recordings, or parts of them, in order of name."""
    one, other = documents(first, parts), documents(second, parts)
    found = []
    for name in sorted({*one, *other}):
        if name not in other:
            found.append(Difference(name, f"is missing in {second}"))
        elif name not in one:
            found.append(Difference(name, f"is missing in {first}"))
        elif (a := content(one[name])) != (b := content(other[name])):
            found.append(Difference(name, f"differs ({len(a)} and {len(b)} bytes)", first_lines(a, b)))
    return found


def content(path: Path) -> bytes:
    """A document as it was answered, unpacked."""
    raw = path.read_bytes()
    return lzma.decompress(raw) if path.suffix == PACKED else raw


def first_lines(a: bytes, b: bytes) -> tuple[str, ...]:
    """A short unified diff from the first lines on that differ; of what is no text, of its bytes."""
    old, new = lines(a), lines(b)
    at = next((i for i, (x, y) in enumerate(zip_longest(old, new)) if x != y), None)
    if at is None:
        return ("(only in how the last line ends)",)
    start, end = max(0, at - CONTEXT), at + WINDOW
    column = _column(old[at : at + 1], new[at : at + 1])
    rows = difflib.unified_diff(old[start:end], new[start:end], lineterm="", n=CONTEXT)
    body = [row for row in rows if not row.startswith(("---", "+++", "@@"))]
    return (f"@@ line {at + 1}", *(_cut(row, column) for row in body[:SHOWN]), *(["..."] * (len(body) > SHOWN)))


def lines(data: bytes) -> list[str]:
    """The lines of a text; of anything else its bytes, sixteen a line."""
    try:
        return data.decode().splitlines()
    except UnicodeDecodeError:
        return list(_dump(data))


def _dump(data: bytes) -> Iterator[str]:
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        yield f"{at:08x}  {row.hex(' '):<47}  {''.join(chr(c) if 32 <= c < 127 else '.' for c in row)}"


def _column(old: Sequence[str], new: Sequence[str]) -> int:
    """Where two lines begin to differ, with room before it; 0 where both are short enough to be shown whole."""
    a, b = "".join(old), "".join(new)
    if max(len(a), len(b)) < WIDTH:
        return 0
    return max(0, next((i for i, (x, y) in enumerate(zip_longest(a, b)) if x != y), 0) - WIDTH // 3)


def _cut(row: str, column: int) -> str:
    """A row of a diff, from a column on and not too wide."""
    sign, text = row[:1], row[1:]
    shown = text[column : column + WIDTH]
    return f"{sign}{'…' if column and text else ''}{shown}{'…' if len(text) > column + WIDTH else ''}"

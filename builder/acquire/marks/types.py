"""What the compiler says of expressions at their places: their types, or what is wrong with them.

Each expression is assigned to a structure that it cannot be assigned to; the message then names its type. All else
that is said about a mark's own text is an error in it. One run without code (`-fsyntax-only`) serves all marks.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from builder.acquire.compile import read_dependencies
from builder.acquire.kbuild import Command
from builder.acquire.shadow import Shadow
from builder.acquire.tools import ended
from builder.errors import ToolError

PROBE: Final = "__bespoke_type"

_FROM = re.compile(r"from type '(?P<type>[^']*)'(?: \{aka '(?P<aka>[^']*)'\})?")
_SIZES: Final = {
    "_Bool": (1, False), "bool": (1, False), "char": (1, True), "signed char": (1, True), "unsigned char": (1, False),
    "short int": (2, True), "short": (2, True), "short unsigned int": (2, False), "unsigned short": (2, False),
    "int": (4, True), "unsigned int": (4, False), "unsigned": (4, False), "long int": (8, True), "long": (8, True),
    "long unsigned int": (8, False), "unsigned long": (8, False), "long long int": (8, True), "long long": (8, True),
    "long long unsigned int": (8, False), "unsigned long long": (8, False),
}  # fmt: skip


class Layouts(Protocol):
    """What the kernel's types hold, by name."""

    def members(self, struct: str) -> Sequence[str]:
        """Names of the members that a structure has itself; none where it is not known."""

    def enumerators(self, enum: str) -> Mapping[str, int]:
        """Values by name; none where it is not known."""


@dataclass(frozen=True, slots=True)
class CType:
    """The type of an expression: as `written`, and resolved past typedefs, qualifiers left out (`name`)."""

    written: str
    name: str

    @classmethod
    def of(cls, written: str, resolved: str) -> CType:
        plain = re.sub(r"\b(?:const|volatile|restrict|__restrict)\b ?", "", resolved)
        return cls(written, re.sub(r":\d+$", "", plain).strip())

    @property
    def is_text(self) -> bool:
        """A string: a pointer to char, or an array of it; names of files are of `const unsigned char`, bytes of u8."""
        if re.fullmatch(r"const unsigned char \*(?: ?const)?", self.written):
            return True
        return bool(re.fullmatch(r"char(?: \*|\s*\[\d*\])", self.name))

    @property
    def is_pointer(self) -> bool:
        return "*" in self.name or self.name.endswith("]")

    @property
    def integer(self) -> tuple[int, bool] | None:
        """Bytes, and whether it is signed."""
        if self.name.startswith("enum "):
            return 4, True
        return _SIZES.get(self.name)

    @property
    def struct(self) -> str:
        """The name of a structure or union, "" for what is none."""
        found = re.fullmatch(r"(?:struct|union) (\w+)", self.name)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Message:
    """An error or warning in a piece of a mark's text: `at` bytes from the piece's start."""

    piece: int
    at: int
    text: str


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A stretch [start, end) of a changed file that is the user's own text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class JudgedText:
    """The types of pieces, by number, and what is wrong with pieces; `other` is wrong elsewhere."""

    types: Mapping[int, CType]
    messages: Sequence[Message]
    other: Sequence[str]


def judge(
    command: Command, root: Path, work: Path, changed: Mapping[str, bytes], path: str, pieces: Sequence[TextPiece]
) -> JudgedText:
    """Compile `command` with the files `changed` in place, without making code, and read what is said of `pieces` of
    the file `path`. `work` is an empty directory. Raises ToolError where the compiler says nothing that can be read."""
    shadow = Shadow(root, work, changed)
    listing = work.parent / f"{work.name}.d"
    words = [*command.words, "-fsyntax-only", "-fdiagnostics-format=json", f"-Wp,-MD,{listing}", "-Wformat"]
    words += ["-Wno-declaration-after-statement", "-fno-diagnostics-show-option"]
    for _ in range(3):
        done = ended([*words, command.source], cwd=shadow.place, env={"TMPDIR": str(work.parent)})
        read = read_dependencies(listing) if listing.is_file() else ()
        if not shadow.escapes(read):
            break
        shadow.follow(read)
    rows = _diagnostics(done.err)
    if rows is None:
        raise ToolError(
            f"the compiler ended with status {done.status}: {done.err.decode(errors='replace')[-300:]}",
            where=command.source,
        )
    return _sorted(rows, changed[path], path, pieces)


def _diagnostics(said: bytes) -> list[dict[str, object]] | None:
    """The document among what a compiler says: a line up to GCC 13, many since 14."""
    text = said.decode("utf-8", "surrogateescape")
    start = re.search(r"^\[", text, re.MULTILINE)
    if start is None:
        return None
    try:
        rows, _ = json.JSONDecoder().raw_decode(text, start.start())
    except ValueError:
        return None
    return rows if isinstance(rows, list) else None


def _sorted(rows: Sequence[dict[str, object]], text: bytes, path: str, pieces: Sequence[TextPiece]) -> JudgedText:
    starts = [0, *(found.end() for found in re.finditer(rb"\n", text))]
    types: dict[int, CType] = {}
    messages: list[Message] = []
    other: list[str] = []
    for row in rows:
        said = str(row["message"])
        place = _place(row, path, starts)
        # What stands before a piece counts, `= (`: that it has no value is said at the sign.
        number = next((n for n, p in enumerate(pieces) if place is not None and p.start - 3 <= place <= p.end), None)
        found = _FROM.search(said) if PROBE in said else None
        if found is not None and number is not None:
            types.setdefault(number, CType.of(found["type"], found["aka"] or found["type"]))
        elif number is not None and place is not None and _counts(row):
            messages.append(Message(number, max(0, place - pieces[number].start), said))
        elif row["kind"] == "error":
            other.append(said)
    return JudgedText(types, tuple(dict.fromkeys(messages)), tuple(dict.fromkeys(other)))


def _counts(row: Mapping[str, object]) -> bool:
    """Whether a message about the user's text is an error, or about a format that does not fit."""
    return row["kind"] == "error" or str(row.get("option", "")).startswith("-Wformat")


def _place(row: Mapping[str, object], path: str, starts: Sequence[int]) -> int | None:
    """The offset in the file `path` that a message is about: where what it tells of was expanded."""
    for location in [row, *_children(row)]:
        for found in _locations(location):
            caret = found.get("caret")
            if isinstance(caret, dict) and os.path.normpath(str(caret.get("file"))) == path:
                line, column = int(caret["line"]), int(caret["byte-column"])
                return starts[line - 1] + column - 1
    return None


def _children(row: Mapping[str, object]) -> list[Mapping[str, object]]:
    found = row.get("children")
    return list(found) if isinstance(found, list) else []


def _locations(row: Mapping[str, object]) -> list[dict[str, object]]:
    found = row.get("locations")
    return list(found) if isinstance(found, list) else []

"""Which names a change to a header is about, and where they are used.

Thousands of objects read a header such as <linux/mm.h>, but a changed inline
function matters only to the few that call it. Preprocessing tells for certain
which they are; it takes a third of a second for each object. So the text is
searched first, in a way that may find too many objects and never too few:

1. `changed_names`: the macros and inline functions whose text the change touches.
2. `uses`: the files that have one of these names; in a header, the macro or inline
   function around it joins the names, and so on until there are no new ones.
   Where `##` can paste such a name together, its parts are looked for as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from builder.acquire.tools import run_grep

#: more names than this are no way to narrow anything
NAME_LIMIT = 3000

#: how many macros may hand the parts of a pasted name on to the one that pastes it
PASTING_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Item:
    """A top-level piece of a header: `kind` is define, inline, prototype, directive or other; lines from 1."""

    kind: str
    name: str
    text: str
    first: int
    last: int


_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL)
_ATTRIBUTE_NAMES = frozenset(
    (
        "__attribute__",
        "__printf",
        "__scanf",
        "__acquires",
        "__releases",
        "__must_hold",
        "__aligned",
        "__section",
        "__alloc_size",
        "__assume_aligned",
        "__nonnull",
        "__malloc",
        "__diag_ignore_all",
    )
)


def _bare(text: str) -> str:
    """The text without comments; strings stay, their braces and brackets do not."""

    def blank(match: re.Match[str]) -> str:
        piece = match[0]
        if piece[0] in "\"'":
            return re.sub(r"[(){};#\\]", "_", piece)
        return " " + "\n" * piece.count("\n")

    return _COMMENT.sub(blank, text)


def items(text: str) -> list[Item] | None:
    """The top-level pieces of a header, in order; None where its braces cannot be followed (`#if` inside)."""
    found: list[Item] = []
    piece: list[str] = []
    depth, first, body = 0, 1, False
    lines = iter(enumerate(_bare(text).split("\n"), start=1))
    for number, line in lines:
        if line.lstrip().startswith("#"):
            start, whole = number, [line]
            while whole[-1].endswith("\\"):
                step = next(lines, None)
                if step is None:
                    break
                number, line = step
                whole.append(line)
            if depth:
                piece += whole
            else:
                found.append(_directive("\n".join(whole), start, number))
            continue
        if not piece and not line.strip():
            continue
        if not piece:
            first = number
        piece.append(line)
        for sign in re.findall(r"[{};]", line):
            if sign == "{":
                body = body or (depth == 0 and _is_function("\n".join(piece).partition("{")[0]))
                depth += 1
            elif sign == "}":
                depth -= 1
            if depth < 0:
                return None
            if depth == 0 and piece and (sign == ";" or (sign == "}" and body)):
                found.append(_declaration("\n".join(piece), first, number))
                piece, body, first = [], False, number
    return found if depth == 0 and not "".join(piece).strip() else None


def _is_function(head: str) -> bool:
    return "(" in head and "=" not in head


def _directive(text: str, first: int, last: int) -> Item:
    match = re.match(r"\s*#\s*(?:define|undef)\s+(\w+)", text)
    kind = "define" if match else "directive"
    return Item(kind=kind, name=match[1] if match else "", text=" ".join(text.split()), first=first, last=last)


def _declaration(text: str, first: int, last: int) -> Item:
    head = text.partition("{")[0]
    names = [n for n in re.findall(r"(\w+)\s*\(", head) if n not in _ATTRIBUTE_NAMES]
    kind, name = "other", ""
    if names and _is_function(head):
        if "{" in text and re.search(r"\b(inline|__always_inline|__inline)\b", head) and "static" in head:
            kind, name = "inline", names[0]
        elif "{" not in text and "typedef" not in head and "struct {" not in head:
            kind, name = "prototype", names[0]
    return Item(kind=kind, name=name, text=" ".join(text.split()), first=first, last=last)


def changed_names(old: str, new: str) -> set[str] | None:
    """Names of the macros, inline functions and prototypes that differ; None when something else does too."""
    before, after = items(old), items(new)
    if before is None or after is None:
        return None
    differ = _without(before, after) + _without(after, before)
    if any(item.kind in ("directive", "other") or not item.name for item in differ):
        return None
    # The order of the rest decides nothing but for directives, which stand around others.
    if [i.text for i in before if i.kind == "directive"] != [i.text for i in after if i.kind == "directive"]:
        return None
    return {item.name for item in differ}


def _without(these: Iterable[Item], those: Iterable[Item]) -> list[Item]:
    texts = {item.text for item in those}
    return [item for item in these if item.text not in texts]


@dataclass(frozen=True, slots=True)
class Uses:
    """`sources`: files of objects of their own that use one of the names; `spread`: other files that
    use one outside of any macro or inline function: whatever includes those is concerned. Unless they
    are `all`, the search ended before."""

    sources: frozenset[str]
    spread: frozenset[str]
    all: bool = True


def uses(text: TreeText, names: Collection[str], sources: Collection[str], *, limit: int) -> Uses:
    """Where `names`, and all that is made of them, are used in a tree; not all of more than `limit` files.

    `sources` are the files that objects are compiled from.
    """
    return _Search(text, frozenset(sources)).run(names, limit)


class TreeText:
    """The text of the tree at `root`, for one search after the other: what is read of it is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._texts: dict[str, str] = {}
        self._parsed: dict[str, list[Item] | None] = {}

    def of(self, path: str) -> str:
        """A file, without comments."""
        if path not in self._texts:
            self._texts[path] = _bare((self.root / path).read_text("utf-8", "surrogateescape"))
        return self._texts[path]

    def item(self, path: str, line: int) -> Item | None:
        """The top-level piece of a file that holds a line; None where that cannot be told."""
        if path not in self._parsed:
            self._parsed[path] = items(self.of(path))
        return next((item for item in self._parsed[path] or () if item.first <= line <= item.last), None)

    @cached_property
    def pasting(self) -> Mapping[str, set[tuple[str, int]]]:
        """Each word that stands beside a `##` -> the places; parameters' names among them do no harm."""
        found: dict[str, set[tuple[str, int]]] = {}
        for path, line, text in run_grep(self.root, ["##"], whole_words=False):
            for left, right in re.findall(r"(\w*)\s*##\s*(?=(\w*))", text):
                for word in (left, right):
                    if len(word) > 1:
                        found.setdefault(word, set()).add((path, line))
        return found

    def macro(self, path: str, line: int) -> tuple[str, set[str]]:
        """The macro whose definition holds a line, and its parameters; an empty name for none."""
        lines = self.of(path).split("\n")
        at = line - 1
        while at > 0 and lines[at - 1].endswith("\\"):
            at -= 1
        match = re.match(r"\s*#\s*define\s+(\w+)(?:\(([^)]*)\))?", "\n".join(lines[at:line]))
        return (match[1], set(re.findall(r"\w+", match[2] or ""))) if match else ("", set())


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A name to look for; it counts in files that hold all `words` too (the parts that `##` joins).

    `depth` counts the macros that have handed such parts on.
    """

    name: str
    words: frozenset[str] = frozenset()
    depth: int = 0


class _Search:
    """A worklist of names over the tree's text, one pass of grep for each round."""

    def __init__(self, text: TreeText, sources: frozenset[str]) -> None:
        self.text = text
        self.sources = sources
        self.users: set[str] = set()
        self.spread: set[str] = set()
        self.waiting: set[_Wanted] = set()

    def run(self, names: Collection[str], limit: int) -> Uses:
        seen: set[_Wanted] = set()
        self.waiting = {_Wanted(name) for name in names}
        while batch := self.waiting - seen:
            seen |= batch
            self.waiting = set()
            wanted: dict[str, set[_Wanted]] = {}
            for want in batch:
                wanted.setdefault(want.name, set()).add(want)
            for path, line, word in run_grep(self.text.root, wanted, whole_words=True):
                for want in wanted[word]:
                    self._hit(path, line, want)
            self.waiting |= self._pasted({want.name for want in batch if not want.words})
            if len(seen) > NAME_LIMIT or len(self.users) > limit:
                return Uses(frozenset(self.users), frozenset(self.spread), all=False)
        return Uses(frozenset(self.users), frozenset(self.spread))

    def _hit(self, path: str, line: int, want: _Wanted) -> None:
        text = self.text.of(path)
        if want.name not in text.split("\n")[line - 1]:
            return  # in a comment
        item = self.text.item(path, line)
        kind = item.kind if item is not None else "other"
        if item is not None and kind in ("define", "inline") and item.name == want.name:
            return  # its own definition
        if not all(re.search(rf"\b{re.escape(word)}\b", text) for word in want.words):
            if item is not None and kind == "define" and want.depth < PASTING_DEPTH:
                self.waiting.add(_Wanted(item.name, want.words, want.depth + 1))
            return
        if kind == "prototype":
            return
        if item is not None and kind in ("define", "inline"):
            self.waiting.add(_Wanted(item.name))
        if path in self.sources:
            self.users.add(path)
        elif kind in ("other", "directive"):
            self.spread.add(path)

    def _pasted(self, names: Collection[str]) -> set[_Wanted]:
        """The macros that would make one of `names` by `##`, and the words that they need to be given for it.

        Names are taken to be joined where an underscore stands, as they are in
        the kernel, and to hold one part that the macro itself writes.
        """
        found: dict[_Wanted, None] = {}
        for name in names:
            for word in _parts(name) & self.text.pasting.keys():
                at = name.find(word)
                rest = frozenset(part for part in (name[:at], name[at + len(word) :]) if part)
                for path, line in self.text.pasting[word]:
                    macro, parameters = self.text.macro(path, line)
                    if macro not in ("", name) and word not in parameters:
                        found[_Wanted(macro, rest, 0 if word.strip("_") else PASTING_DEPTH)] = None
        words = {word for want in found for word in want.words}
        present = {word for _, _, word in run_grep(self.text.root, words, whole_words=True)} if words else set()
        return {want for want in found if want.words <= present}


def _parts(name: str) -> set[str]:
    """The proper parts of a name that begin and end at its ends or beside an underscore."""
    cuts = sorted({0, len(name)} | {at for at in range(1, len(name)) if "_" in name[at - 1 : at + 1]})
    return {name[a:b] for a in cuts for b in cuts if 1 < b - a < len(name)}

"""The report as one page: HTML that needs nothing but itself.

`describe` turns a compared pair into plain values, which a worker process can
hand over; `render_page` writes the page of one pair, of a tree or of a module.
Names come from the objects and may be anything: the template escapes all of
them, signs that would be obeyed rather than shown are spelled out, and no
script runs but the page's own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from builder.compare import Atom
from builder.compare.structs import StructChange, struct_changes
from builder.compose.outcome import Diff
from builder.compose.selection import Role
from builder.errors import Refusal
from builder.report.listing import Listing, Listings
from builder.report.pages import page
from builder.report.references import Bindings, ShownReference, references_of

MOST_ROWS: Final = 600
"""Instructions listed of one function, unless all are asked for."""
MOST_LINES: Final = 2000
"""Lines shown of one source patch."""
_HUNK: Final = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_MOST_PAGE: Final = 60_000
_MANY_FUNCTIONS: Final = 8

_VERDICTS: Final = {
    "built": "The module is written.",
    "changed": "The change can ship.",
    "refused": "The change cannot ship as it is.",
    "unchanged": "Nothing changed that has to ship.",
    "error": "It could not be compared.",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """A refusal or a warning; `accept` is the argument that accepts it, empty where nobody may."""

    code: str
    symbol: str
    section: str
    message: str
    advice: str
    accept: str

    @classmethod
    def of(cls, refusal: Refusal) -> Advice:
        accept = "" if refusal.fatal else shlex.join(["--allow", f"{refusal.code}:{refusal.symbol}"])
        return cls(refusal.code, refusal.symbol, refusal.section, refusal.message, refusal.advice, accept)


@dataclass(frozen=True, slots=True)
class PageFunction:
    """One function of a pair: why it is here, its code, what it refers to. Sizes in bytes, 0 for one that is absent."""

    name: str
    aliases: tuple[str, ...]
    role: str
    reason: str
    section: str
    source: str
    old_size: int
    new_size: int
    travels: bool
    redirected: bool
    listing: Listing
    references: tuple[ShownReference, ...] = ()
    entries: tuple[tuple[str, int], ...] = ()
    parts: tuple[PageFunction, ...] = ()


@dataclass(frozen=True, slots=True)
class Datum:
    """A variable that is new or whose initial value changed, and whether it travels."""

    name: str
    section: str
    size: int
    what: str
    travels: bool


@dataclass(frozen=True, slots=True)
class PagePair:
    """One pair of objects as the page shows it; `message` says why one could not be compared."""

    label: str
    old: str
    new: str
    verdict: str
    message: str = ""
    functions: tuple[PageFunction, ...] = ()
    removed: tuple[str, ...] = ()
    line_only: tuple[str, ...] = ()
    data: tuple[Datum, ...] = ()
    structs: tuple[StructChange, ...] = ()
    refusals: tuple[Advice, ...] = ()
    warnings: tuple[Advice, ...] = ()
    accepted: tuple[Advice, ...] = ()

    def count(self, role: str) -> int:
        return sum(f.role == role for f in self.functions)


@dataclass(frozen=True, slots=True)
class ShownPatch:
    """A source patch by its lines: (kind, text), where kind is `file`, `hunk`, `added`, `removed` or empty."""

    name: str
    lines: tuple[tuple[str, str], ...]
    left_out: int = 0

    @classmethod
    def of(cls, name: str, text: str) -> ShownPatch:
        """The patch as it was written; of a long one the beginning."""
        rows = text.splitlines()
        return cls(name, tuple(zip(_kinds(rows), rows[:MOST_LINES], strict=False)), max(len(rows) - MOST_LINES, 0))

    def count(self, kind: str) -> int:
        return sum(row == kind for row, _ in self.lines)


def _kinds(lines: Sequence[str]) -> Iterator[str]:
    """What each line of a patch is. A hunk is as long as its head says: in it `--- x` takes a line `-- x` away."""
    old = new = 0
    for line in lines:
        if old > 0 or new > 0:
            sign = line[:1]
            old -= sign in ("-", " ", "")
            new -= sign in ("+", " ", "")
            yield {"+": "added", "-": "removed"}.get(sign, "")
        elif head := _HUNK.match(line):
            old, new = (1 if count is None else int(count) for count in head.groups())
            yield "hunk"
        else:
            yield "file" if line.startswith(("diff ", "--- ", "+++ ")) else ""


@dataclass(frozen=True, slots=True)
class PageOutcome:
    """What a page says above its pairs.

    `facts` are rows of a term and its value, `refusals` those that belong to no
    pair, `following` the commands to run next, each with what it does. With
    `bound` the pairs tell what a module binds. `sentence` explains the verdict
    where the usual one does not. `patches` are those that the objects were compiled for.
    """

    title: str
    verdict: str
    facts: tuple[tuple[str, str], ...] = ()
    refusals: tuple[Advice, ...] = ()
    warnings: tuple[Advice, ...] = ()
    unpaired: tuple[str, ...] = ()
    following: tuple[tuple[str, str], ...] = ()
    sentence: str = ""
    bound: bool = False
    patches: tuple[ShownPatch, ...] = ()


def describe(diff: Diff, label: str = "", bindings: Bindings | None = None, most: int | None = MOST_ROWS) -> PagePair:
    """A compared pair; `bindings` are those of the module it went into, `most` the rows of a listing (None: all)."""
    comparison, judged = diff.comparison, diff.judged
    document = diff.as_json()
    listings = Listings(comparison, most)
    functions = _Functions(diff, document["reasons"], listings, bindings or {})
    structs = any(w.code == "struct-layout" for w in judged.warnings)
    return PagePair(
        label=label or diff.new,
        old=diff.old,
        new=diff.new,
        verdict=diff.verdict,
        functions=tuple(functions.all()),
        removed=tuple(document["functions"]["removed"]),
        line_only=tuple(document["functions"]["line_only"]),
        data=tuple(_data(diff)),
        structs=struct_changes(comparison.old.obj, comparison.new.obj) if structs else (),
        refusals=tuple(map(Advice.of, judged.refusals)),
        warnings=tuple(map(Advice.of, judged.warnings)),
        accepted=tuple(map(Advice.of, judged.accepted)),
    )


def unread(document: Mapping[str, Any]) -> PagePair:
    """A pair of a tree that could not be compared, from its JSON document."""
    return PagePair(document["path"], document["old"], document["new"], document["verdict"], document["message"])


class _Functions:
    """Every function that changed or travels, `.cold` parts inside their parents."""

    def __init__(self, diff: Diff, reasons: Mapping[str, str], listings: Listings, bindings: Bindings) -> None:
        self.diff, self.reasons, self.listings, self.bindings = diff, reasons, listings, bindings
        self.redirected = frozenset(diff.selection.redirected)

    def all(self) -> Iterable[PageFunction]:
        comparison, selection = self.diff.comparison, self.diff.selection
        parts = {part for row in comparison.children.values() for part in row}
        changed = [a for a in comparison.changed if not selection.macros.ignores(a)]
        roles = {a: "changed" for a in changed} | {a: "new" for a in comparison.new_functions}
        roles |= {a: role.value for a, role in selection.functions.items() if role is not Role.CHILD}
        order = ("changed", "new", "carrier")
        for atom in sorted(roles, key=lambda a: (order.index(roles[a]), a.name)):
            if atom not in parts and not selection.macros.ignores(atom):
                yield self.one(atom, roles[atom])

    def one(self, atom: Atom, role: str) -> PageFunction:
        comparison, selection = self.diff.comparison, self.diff.selection
        old = comparison.correlation.twins.get(atom)
        travels = atom in selection.functions
        entries: dict[str, int] = {}
        for entry in selection.entries.get(atom, ()):
            entries[entry.table.name] = entries.get(entry.table.name, 0) + 1
        return PageFunction(
            name=atom.name,
            aliases=tuple(n for n in atom.names if n != atom.name),
            role=role,
            reason=self.reasons.get(atom.name, ""),
            section=atom.section.name,
            source=self.listings.source(atom),
            old_size=old.size if old else 0,
            new_size=atom.size,
            travels=travels,
            redirected=atom in self.redirected,
            listing=self.listings.of(atom),
            references=references_of(self.diff, atom, self.bindings) if travels else (),
            entries=tuple(sorted(entries.items())),
            parts=tuple(self.one(part, "part") for part in comparison.children.get(atom, ())),
        )


def _data(diff: Diff) -> Iterable[Datum]:
    comparison, selection = diff.comparison, diff.selection
    for atom, difference in comparison.data.items():
        if difference.is_changed:
            yield Datum(atom.name, atom.section.name, atom.size, difference.reason, atom in selection)
    for atom in selection.data:
        if atom in comparison.new_data:
            yield Datum(atom.name, atom.section.name, atom.size, "new", True)


def render_page(outcome: PageOutcome, pairs: Sequence[PagePair]) -> str:
    """The page. A listing that would make it too long to be opened is left out, and its place says so."""
    room = _MOST_PAGE
    listed: set[int] = set()
    for pair in pairs:
        for function in _with_parts(pair.functions):
            size = function.listing.rows - function.listing.left_out
            if size <= room:
                room -= size
                listed.add(id(function))
    return page(
        "report.html.j2",
        outcome=outcome,
        pairs=pairs,
        several=len(pairs) > 1,
        sentence=_VERDICTS[outcome.verdict],
        is_listed=lambda function: id(function) in listed,
        is_open=sum(len(p.functions) for p in pairs) <= _MANY_FUNCTIONS,
    )


def _with_parts(functions: Iterable[PageFunction]) -> Iterable[PageFunction]:
    for function in functions:
        yield function
        yield from function.parts

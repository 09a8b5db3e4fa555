"""The expressions of marks, judged by the compiler at their places: types, structures taken apart, what is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from builder.acquire.cache import scratch
from builder.acquire.kbuild import Command, ListedObjects
from builder.acquire.marks import fields as rows
from builder.acquire.marks.edits import Found, Tagged, Text, applied, file_edits
from builder.acquire.marks.expressions import parse_expression, read_through
from builder.acquire.marks.place import MarkSpot
from builder.acquire.marks.types import PROBE, CType, JudgedText, Layouts, TextPiece, judge
from builder.acquire.marks.words import RETVAL, RETVAL_NAME, Expression, Mark, Said, unique
from builder.acquire.readers import read_includes
from builder.acquire.source import SourceTree
from builder.errors import InputError, Refusal, RefusedError

MOST_FIELDS: Final = 24
MOST_TEXTS: Final = 8
_DEEPEST: Final = 3
_TRIED: Final = 8
"""So many objects are asked, at most, for one that reads a header at the place of a mark."""
_ELSEWHERE: Final = {
    "__user": ("memory of the process", "a string is read safely by its name alone, or by %s"),
    "__iomem": ("memory of a device", "say the pointer itself"),
    "__percpu": ("an offset, not an address", "say per_cpu_ptr(POINTER, CPU)"),
}
"""What a declaration says of a pointer that must not be followed as it is (include/linux/compiler_types.h)."""


@dataclass(frozen=True)
class PlacedMark:
    """A mark with its words, and the spots where it stands and, for a time, where that ends (`until`)."""

    number: int
    mark: Mark
    said: Said
    spots: tuple[MarkSpot, ...]
    until: tuple[MarkSpot, ...]
    event: str

    @property
    def place(self) -> str:
        """`FILE:LINE FUNCTION`, with all its lines, and for a time both places."""
        return " to ".join(_where(spots) for spots in (self.spots, self.until) if spots)

    @property
    def all_spots(self) -> tuple[MarkSpot, ...]:
        return (*self.spots, *self.until)


def _where(spots: Sequence[MarkSpot]) -> str:
    lines = ",".join(str(spot.line) for spot in spots)
    return f"{spots[0].source.path}:{lines} {spots[0].function.name}"


@dataclass(frozen=True, slots=True)
class JudgedMark:
    """The fields of a mark's records, and their types as the source writes them."""

    fields: tuple[rows.MarkField, ...]
    types: tuple[str, ...]


_BEGUN: Final = Expression("", "", "0")
_ENDED: Final = Expression("until", "", "0")
"""Pieces that are there to see whether a spot is compiled at all."""


class Judging:
    """One compilation for each round and file."""

    def __init__(
        self,
        tree: SourceTree,
        objects: ListedObjects,
        layouts: Layouts,
        placed: Sequence[PlacedMark],
        patched: Mapping[str, bytes],
    ) -> None:
        self.tree, self.objects, self.layouts, self.placed, self.patched = tree, objects, layouts, placed, patched
        self.known: dict[tuple[int, Expression], CType] = {}

    def all(self) -> dict[int, JudgedMark]:
        """By the marks' numbers. Raises RefusedError with everything that is wrong, as far as one round tells."""
        asked = {one.number: [*one.said.fields] for one in self.placed}
        fields = {one.number: list(one.said.fields) for one in self.placed}
        for round_ in range(_DEEPEST):
            self._ask(asked, first=round_ == 0)
            asked = {}
            for one in self.placed:
                opened = [part for field in fields[one.number] for part in self._opened(one, field)]
                if len(opened) > MOST_FIELDS:
                    raise _wrong(one, one.mark.words[-1], f"would make a record with {len(opened)} fields, more than "
                                 f"{MOST_FIELDS}", "say only those that you want to see, members of structures one by "
                                 "one")  # fmt: skip
                asked[one.number] = [f for f in opened if (one.number, f) not in self.known]
                fields[one.number] = opened
            if not any(asked.values()):
                break
        return {one.number: self._fields(one, _told_apart(fields[one.number])) for one in self.placed}

    def _pointers(self) -> list[Refusal]:
        """What would read through a pointer that cannot be followed as it is."""
        refusals = []
        for one in self.placed:
            if one.mark.unsafe:
                continue
            for expression in (*one.said.fields, one.said.condition, one.said.value):
                if expression is None:
                    continue
                for name, whole in read_through(parse_expression(expression.code)):
                    if word := _annotation(one.spots[0], name):
                        what, advice = _ELSEWHERE[word]
                        message = f"{one.mark.place}: {expression.text!r}: {whole} reads through {name}: {what}"
                        refusals.append(Refusal("mark-expression", one.mark.place, "", message, advice))
        return refusals

    def _opened(self, one: PlacedMark, field: Expression) -> list[Expression]:
        """The members of a structure, or the field itself."""
        kind = self.known.get((one.number, field))
        if kind is None or kind.is_text or kind.is_pointer or kind.integer is not None or one.said.format is not None:
            return [field]
        members = self.layouts.members(kind.struct or kind.name)
        if not members:
            raise _wrong(one, field.text, f"is of type {kind.written}, of which no members are known",
                         "say a member of it, or a pointer to it")  # fmt: skip
        return [Expression(field.text, f"{field.name}_{m}", f"({field.code}).{m}") for m in members]

    def _ask(self, asked: Mapping[int, Sequence[Expression]], *, first: bool) -> None:
        chosen = [one for one in self.placed if asked.get(one.number) or first]
        statements = []
        for one in chosen:
            wanted = asked.get(one.number, ())
            statements += [(spot, self._probe(one, wanted, first)) for spot in one.spots]
            if first:
                statements += [(spot, self._until_probe(one)) for spot in one.until]
        refusals = self._pointers() if first else []
        for path, edits in file_edits(statements).items():
            text, found = applied(self._source(path), edits)
            judged = self._judged(path, text, found)
            for number, kind in judged.types.items():
                self.known.setdefault(found[number].tag, kind)
            refusals += [self._told(found[m.piece], m.at, m.text) for m in judged.messages]
            if not judged.messages and judged.other:
                raise InputError(f"does not compile with the marks: {judged.other[0]}", where=path)
        if refusals:
            raise RefusedError(list(dict.fromkeys(refusals)))
        self._check_compiled(chosen, asked, first)

    def _check_compiled(
        self, chosen: Sequence[PlacedMark], asked: Mapping[int, Sequence[Expression]], first: bool
    ) -> None:
        refusals = []
        for one in chosen:
            wanted = list(asked.get(one.number, ()))
            wanted += [_BEGUN, *([_ENDED] if one.until else [])] if first else []
            if missing := [e for e in wanted if (one.number, e) not in self.known]:
                place = one.mark.until if missing[0] is _ENDED else one.mark.place
                message = f"{place}: it is not compiled at that place in this configuration"
                advice = "mark a line that is (see the #if around it)"
                refusals.append(Refusal("mark-place", place, "", message, advice))
        if refusals:
            raise RefusedError(refusals)

    def _source(self, path: str) -> bytes:
        return next(s.source.text for one in self.placed for s in one.all_spots if s.source.path == path)

    def _probe(self, one: PlacedMark, asked: Sequence[Expression], first: bool) -> Text:
        values = [e for e in (one.said.condition, one.said.value) if e is not None] if first else []
        pieces = _type_probe(one, [*([_BEGUN] if first else []), *values, *asked])
        if first and one.said.format is not None:
            text = rows.quoted(one.said.format.plain)
            passed = "".join(f", ({field.code})" for field in one.said.fields)
            whole = Expression(one.said.format.text, "", "")
            pieces += [
                " extern __attribute__((format(printf, 1, 2))) int __bespoke_printf(const char *, ...);"
                " __bespoke_printf(",
                Tagged(text, (one.number, whole)),
                f"{passed});",
            ]
        return [*pieces, " }"]

    def _until_probe(self, one: PlacedMark) -> Text:
        key = one.said.until_value
        return [*_type_probe(one, [_ENDED, *([_at_until(key)] if key is not None else [])]), " }"]

    def _judged(self, path: str, text: bytes, found: Sequence[Found]) -> JudgedText:
        pieces = [TextPiece(f.start, f.end) for f in found]
        last: JudgedText | None = None
        for command in self._compiling(path):
            with scratch("marks") as place:
                work = place / "tree"
                work.mkdir()
                judged = judge(command, self.tree.root, work, {**self.patched, path: text}, path, pieces)
            if judged.types or judged.messages or judged.other:
                return judged
            last = judged
        if last is None:
            raise InputError("is read by no object of this kernel's configuration", where=path)
        return last

    def _compiling(self, path: str) -> Sequence[Command]:
        """What compiles the file: its own command, or those of the nearest objects that include it."""
        own = [command for command in self.objects.of_source(path) if command.owners]
        if own:
            return own[:1]
        steps = read_includes(self.tree, self.objects).distances([path])
        near = sorted((steps[file], name) for name, file in self.objects.linked() if file in steps)
        return [self.objects.of_object(name) for _, name in near[:_TRIED]]

    def _told(self, found: Found, at: int, text: str) -> Refusal:
        number, expression = found.tag
        one = next(p for p in self.placed if p.number == number)
        is_until = expression.name == _UNTIL
        place, spot = (one.mark.until, one.until[0]) if is_until else (one.mark.place, one.spots[0])
        names = [*spot.function.parameters, *spot.function.locals_before(spot.start)]
        text = re.sub(r"\\U([0-9a-f]{8})", lambda sign: chr(int(sign[1], 16)), text.replace(RETVAL_NAME, RETVAL))
        if not expression.code:
            return Refusal("mark-format", place, "", f"{place}: {expression.text!r}: {text}",
                           "say another conversion, or cast the expression")  # fmt: skip
        scope = f"in scope there: {', '.join(dict.fromkeys(names))}" if names else "no local name is in scope there"
        pointer = f"{expression.text!r}, at character {min(at, len(expression.code)) + 1}"
        return Refusal("mark-expression", place, "", f"{place}: {pointer}: {text}", scope)

    def _fields(self, one: PlacedMark, found: Sequence[tuple[str, Expression]]) -> JudgedMark:
        until = _at_until(one.said.until_value) if one.said.until_value is not None else None
        for value in (one.said.condition, one.said.value, until):
            if value is not None:
                kind = self.known[one.number, value]
                if kind.integer is None and not kind.is_pointer:
                    raise _wrong(one, value.text, f"is of type {kind.written}, and no number", "say a member of it")
        out = []
        for number, (name, expression) in enumerate(found):
            kind = self.known[one.number, expression]
            if one.said.format is not None:
                field = rows.by_conversion(name, expression.code, kind, one.said.format.conversions[number])
            else:
                enum = kind.name.removeprefix("enum ") if kind.name.startswith("enum ") else ""
                names = self.layouts.enumerators(enum) if enum else {}
                field = rows.by_type(name, expression.code, kind, names)
            if field is None:
                raise _wrong(one, expression.text, f"is of type {kind.written}, which no record can hold",
                             "say a member of it, or a pointer to it")  # fmt: skip
            out.append(field)
        texts = sum(field.text for field in out)
        if texts > MOST_TEXTS:
            raise _wrong(one, one.mark.words[-1], f"would make a record with {texts} strings, more than {MOST_TEXTS}",
                         "say fewer, or two marks")  # fmt: skip
        return JudgedMark(tuple(out), tuple(self.known[one.number, e].written for _, e in found))


_UNTIL: Final = "until"


def _at_until(key: Expression) -> Expression:
    """The key of a time where that ends: the same text may be of another type there."""
    return replace(key, name=_UNTIL)


def _annotation(spot: MarkSpot, name: str) -> str:
    """Which of _ELSEWHERE the declaration of a pointer that is in scope at a spot says, "" for none."""
    body = spot.source.text[spot.function.body.start_byte : spot.start].decode("utf-8", "surrogateescape")
    words = "|".join(_ELSEWHERE)
    found = re.search(rf"\b({words})\b[\s*]*,?\s*\b{re.escape(name)}\b", f"{spot.function.head}\n{body}")
    return found[1] if found else ""


def _told_apart(fields: Sequence[Expression]) -> list[tuple[str, Expression]]:
    """Each with a name that no other has: members of structures are named when they are known."""
    taken: set[str] = set()
    return [(unique(field.name, taken), field) for field in fields]


def _type_probe(one: PlacedMark, asked: Sequence[Expression]) -> list[str | Tagged]:
    """A block, not yet closed, at which the compiler says of what type each expression is."""
    pieces: list[str | Tagged] = ["{ struct ", PROBE, " { int x; } __bespoke_v;"]
    for expression in asked:
        pieces += [" __bespoke_v = (", Tagged(expression.code, (one.number, expression)), ");"]
    return pieces


def _wrong(one: PlacedMark, text: str, what: str, advice: str) -> RefusedError:
    message = f"{one.mark.place}: {text!r} {what}"
    return RefusedError([Refusal("mark-expression", one.mark.place, "", message, advice)])

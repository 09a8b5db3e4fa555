"""The source of a set of marks: spots found, expressions judged, statements and records written, as one patch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from builder.acquire.cache import scratch
from builder.acquire.kbuild import Command, ListedObjects
from builder.acquire.marks import fields as rows
from builder.acquire.marks.edits import Edit, Found, Tagged, Text, applied, as_patch, statement_edits
from builder.acquire.marks.find import Finder
from builder.acquire.marks.place import MarkPlace, MarkSpot
from builder.acquire.marks.types import PROBE, CType, JudgedText, Layouts, TextPiece, judge
from builder.acquire.marks.words import Expression, Mark, Said, understood
from builder.acquire.readers import read_includes
from builder.acquire.source import SourceTree
from builder.errors import InputError, Refusal, RefusedError
from builder.templates import render

CARRIER: Final = "lib/argv_split.c"
"""A small object of every kernel, to which the code that makes the records is added."""
_MOST_FIELDS: Final = 24
_DEEPEST: Final = 3
_TRIED: Final = 8
"""So many objects are asked, at most, for one that reads a header at the place of a mark."""


@dataclass(frozen=True)
class PlacedMark:
    """A mark with its spots and words."""

    number: int
    mark: Mark
    said: Said
    spots: tuple[MarkSpot, ...]
    event: str

    @property
    def place(self) -> str:
        """`FILE:LINE FUNCTION`, with all its lines."""
        lines = ",".join(str(spot.line) for spot in self.spots)
        return f"{self.spots[0].source.path}:{lines} {self.spots[0].function.name}"


@dataclass(frozen=True)
class MarkedSource:
    """The patch that puts marks into the source, and what each of them is; fields by name and type, as written."""

    patch: str
    placed: tuple[PlacedMark, ...]
    fields: tuple[tuple[rows.MarkField, ...], ...]
    types: tuple[tuple[str, ...], ...]

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that were marked."""
        return tuple(dict.fromkeys(spot.function.name for one in self.placed for spot in one.spots))


def mark_source(
    marks: Sequence[Mark], tree: SourceTree, layouts: Layouts, module: str, *, armed: bool = False
) -> MarkedSource:
    """The patch for `marks` in `tree`, whose events are called after `module`.

    Raises RefusedError with what is wrong with a place or an expression, in the user's words.
    """
    with tree.in_use(), tree.objects() as objects:
        finder = Finder(tree, objects)
        placed = _placed(marks, finder)
        judged = _Judging(tree, objects, layouts, placed).all()
        changed: dict[str, tuple[bytes, bytes]] = {}
        for path, edits in _edits(placed, [_statement(one, module, judged[one.number][0]) for one in placed]).items():
            before = finder.source(path).text
            if b"__bespoke" in before:
                raise InputError("has names that begin with __bespoke already: it is marked, or not the kernel's",
                                 where=path)  # fmt: skip
            changed[path] = (before, applied(before, edits)[0])
        before, after = changed.get(CARRIER, (finder.source(CARRIER).text,) * 2)
        changed[CARRIER] = (before, after + _records(placed, judged, module, armed).encode())
    head = f"marks: {', '.join(one.mark.place for one in placed)}\n"
    return MarkedSource(
        as_patch(changed, head),
        placed,
        tuple(judged[one.number][0] for one in placed),
        tuple(judged[one.number][1] for one in placed),
    )


def _placed(marks: Sequence[Mark], finder: Finder) -> tuple[PlacedMark, ...]:
    """Every mark at its place; all that is refused, together."""
    out: list[PlacedMark] = []
    refusals: list[Refusal] = []
    names: dict[str, int] = {}
    for number, mark in enumerate(marks):
        try:
            place = MarkPlace.parse(mark.place)
            said = understood(mark)
            spots = finder.spots(place)
            if not spots:
                raise RefusedError(
                    [Refusal("mark-place", mark.place, "", f"{mark.place}: there is no return in it", "")]
                )
        except RefusedError as refused:
            refusals += refused.refusals
            continue
        event = mark.name or _event_name(place, spots)
        count = names[event] = names.get(event, 0) + 1
        out.append(PlacedMark(number, mark, said, spots, event if count == 1 else f"{event}_{count}"))
    if refusals:
        raise RefusedError(refusals)
    return tuple(out)


def _event_name(place: MarkPlace, spots: Sequence[MarkSpot]) -> str:
    name = spots[0].function.name
    if place.returns:
        return f"{name}_return"
    return name if place.function and not place.plus and not place.wanted else f"{name}_{spots[0].line}"


def _edits(placed: Sequence[PlacedMark], statements: Sequence[Text]) -> dict[str, list[Edit]]:
    """The edits of each file; marks at one spot stand in their order."""
    out: defaultdict[str, list[Edit]] = defaultdict(list)
    returns: dict[tuple[str, int], Text] = {}
    for one, statement in zip(placed, statements, strict=True):
        for spot in one.spots:
            if spot.how == "return":
                key = (spot.source.path, spot.start)
                returns[key] = [*returns.get(key, ()), *statement, " "]
    seen: set[tuple[str, int]] = set()
    for one, statement in zip(placed, statements, strict=True):
        for spot in one.spots:
            key = (spot.source.path, spot.start)
            if spot.how in ("return", "braces"):
                if key in seen:
                    if spot.how == "braces":
                        out[spot.source.path].insert(
                            next(n for n, e in enumerate(out[spot.source.path]) if e.start == spot.start) + 1,
                            Edit(spot.start, spot.start, [*statement, " "]),
                        )
                    continue
                seen.add(key)
            out[spot.source.path] += statement_edits(spot, returns[key] if spot.how == "return" else statement)
    return dict(out)


class _Judging:
    """The types of all expressions, structures taken apart; one compilation for each round and file."""

    def __init__(
        self, tree: SourceTree, objects: ListedObjects, layouts: Layouts, placed: Sequence[PlacedMark]
    ) -> None:
        self.tree, self.objects, self.layouts, self.placed = tree, objects, layouts, placed
        self.known: dict[tuple[int, str], CType] = {}
        self.commands: dict[str, Command] = {}

    def all(self) -> dict[int, tuple[tuple[rows.MarkField, ...], tuple[str, ...]]]:
        asked = {one.number: self._first(one) for one in self.placed}
        fields = {one.number: list(one.said.fields) for one in self.placed}
        for round_ in range(_DEEPEST):
            self._ask(asked, with_formats=round_ == 0)
            asked = {}
            for one in self.placed:
                opened = [part for field in fields[one.number] for part in self._opened(one, field)]
                if len(opened) > _MOST_FIELDS:
                    raise _wrong(one, one.mark.words[-1], f"has {len(opened)} members, more than {_MOST_FIELDS}",
                                 "say the members that you want to see")  # fmt: skip
                asked[one.number] = [f for f in opened if (one.number, f.code) not in self.known]
                fields[one.number] = opened
            if not any(asked.values()):
                break
        return {one.number: self._fields(one, fields[one.number]) for one in self.placed}

    def _first(self, one: PlacedMark) -> list[Expression]:
        return [e for e in (*one.said.fields, one.said.condition, one.said.value) if e is not None]

    def _opened(self, one: PlacedMark, field: Expression) -> list[Expression]:
        """The members of a structure, or the field itself."""
        kind = self.known.get((one.number, field.code))
        if kind is None or kind.is_text or kind.is_pointer or kind.integer is not None or one.said.format is not None:
            return [field]
        members = self.layouts.members(kind.struct or kind.name)
        if not members:
            raise _wrong(one, field.text, f"is of type {kind.written}, of which no members are known",
                         "say a member of it, or a pointer to it")  # fmt: skip
        return [Expression(field.text, f"{field.name}_{m}", f"({field.code}).{m}") for m in members]

    def _ask(self, asked: Mapping[int, Sequence[Expression]], *, with_formats: bool) -> None:
        chosen = [one for one in self.placed if asked.get(one.number)]
        if not chosen and not with_formats:
            return
        statements = [self._probe(one, asked.get(one.number, ()), with_formats) for one in self.placed]
        refusals: list[Refusal] = []
        for path, edits in _edits(self.placed, statements).items():
            before = edits and self._source(path)
            text, found = applied(before or b"", edits)
            judged = self._judged(path, text, found)
            for number, kind in judged.types.items():
                mark, expression = found[number].tag
                self.known.setdefault((mark, expression.code), kind)
            refusals += [self._told(found[m.piece], m.at, m.text) for m in judged.messages]
            if not judged.messages and judged.other:
                raise InputError(f"does not compile with the marks: {judged.other[0]}", where=path)
        if refusals:
            raise RefusedError(list(dict.fromkeys(refusals)))
        for one in chosen:
            for expression in asked[one.number]:
                if (one.number, expression.code) not in self.known:
                    raise _wrong(one, expression.text, "is not compiled at that place in this configuration",
                                 "mark a line that is (see the #if around it)")  # fmt: skip

    def _source(self, path: str) -> bytes:
        return next(s.source.text for one in self.placed for s in one.spots if s.source.path == path)

    def _probe(self, one: PlacedMark, asked: Sequence[Expression], with_formats: bool) -> Text:
        pieces: list[str | Tagged] = ["{ struct ", PROBE, " { int x; } __bespoke_v;"]
        for expression in asked:
            pieces += [" __bespoke_v = (", Tagged(expression.code, (one.number, expression)), ");"]
        if with_formats and one.said.format is not None:
            text = rows.quoted(one.said.format)
            values = "".join(f", ({field.code})" for field in one.said.fields)
            whole = Expression(one.said.format, "", "")
            pieces += [
                " extern __attribute__((format(printf, 1, 2))) int __bespoke_printf(const char *, ...);"
                " __bespoke_printf(",
                Tagged(text, (one.number, whole)),
                f"{values});",
            ]
        return [*pieces, " }"]

    def _judged(self, path: str, text: bytes, found: Sequence[Found]) -> JudgedText:
        pieces = [TextPiece(f.start, f.end) for f in found]
        last: JudgedText | None = None
        for command in self._compiling(path):
            with scratch("marks") as place:
                work = place / "tree"
                work.mkdir()
                judged = judge(command, self.tree.root, work, {path: text}, path, pieces)
            if judged.types or judged.messages or judged.other or not pieces:
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
        names = [*one.spots[0].function.parameters, *one.spots[0].function.locals_before(one.spots[0].start)]
        text = re.sub(r"__bespoke_retval", "$retval", text)
        if not expression.code:
            return Refusal("mark-format", one.mark.place, "", f"{one.mark.place}: {expression.text!r}: {text}",
                           "say another conversion, or cast the expression")  # fmt: skip
        scope = f"in scope there: {', '.join(dict.fromkeys(names))}" if names else "no local name is in scope there"
        pointer = f"{expression.text!r}, at character {min(at, len(expression.code)) + 1}"
        return Refusal("mark-expression", one.mark.place, "", f"{one.mark.place}: {pointer}: {text}", scope)

    def _fields(
        self, one: PlacedMark, found: Sequence[Expression]
    ) -> tuple[tuple[rows.MarkField, ...], tuple[str, ...]]:
        out = []
        for expression in (one.said.condition, one.said.value):
            if expression is not None:
                kind = self.known[one.number, expression.code]
                if kind.integer is None and not kind.is_pointer:
                    raise _wrong(
                        one, expression.text, f"is of type {kind.written}, and no number", "say a member of it"
                    )
        for number, expression in enumerate(found):
            kind = self.known[one.number, expression.code]
            if one.said.format is not None:
                field = rows.by_conversion(expression.name, expression.code, kind, one.said.conversions[number])
            else:
                enum = kind.name.removeprefix("enum ") if kind.name.startswith("enum ") else ""
                names = self.layouts.enumerators(enum) if enum else {}
                field = rows.by_type(expression.name, expression.code, kind, names)
            if field is None:
                raise _wrong(one, expression.text, f"is of type {kind.written}, which no record can hold",
                             "say a member of it, or a pointer to it")  # fmt: skip
            out.append(field)
        return tuple(out), tuple(self.known[one.number, e.code].written for e in found)


def _wrong(one: PlacedMark, text: str, what: str, advice: str) -> RefusedError:
    message = f"{one.mark.place}: {text!r} {what}"
    return RefusedError([Refusal("mark-expression", one.mark.place, "", message, advice)])


def _symbol(kind: str, module: str, number: int) -> str:
    return f"__bespoke_{kind}_{module}_{number}"


def _statement(one: PlacedMark, module: str, fields: Sequence[rows.MarkField]) -> Text:
    """What stands in the function: off, it costs a test and a branch that is not taken."""
    on, emit = (_symbol(kind, module, one.number) for kind in ("on", "emit"))
    condition = f" && ({one.said.condition.code})" if one.said.condition else ""
    passed = ", ".join(f.code for f in fields)
    if one.said.value is not None:
        passed = f"(long long)({one.said.value.code})"
    return [
        f"{{ extern unsigned char {on}; if (__builtin_expect(*(volatile unsigned char *)&{on}, 0){condition}) "
        f"{{ extern void {emit}({_parameters(one, fields)}) __attribute__((cold)); {emit}({passed}); }} }}"
    ]


def _parameters(one: PlacedMark, fields: Sequence[rows.MarkField], *, named: bool = False) -> str:
    if one.said.value is not None:
        return "long long value" if named else "long long"
    return ", ".join(f"{f.argument_type}{f' {f.parameter}' if named else ''}" for f in fields) or "void"


def _records(
    placed: Sequence[PlacedMark],
    judged: Mapping[int, tuple[tuple[rows.MarkField, ...], tuple[str, ...]]],
    module: str,
    armed: bool,
) -> str:
    """The C of the records, from the template."""
    marks = []
    for one in placed:
        fields = () if one.mark.aggregate else judged[one.number][0]
        fields = tuple(_own_symbols(f, one.number) for f in fields)
        shown, told = _shown(one, fields)
        marks.append(
            {
                "number": one.number,
                "comment": f"{one.place}: {one.mark.place}".replace("*/", "* /"),
                "fields": fields,
                "symbols": [f for f in fields if f.symbols],
                "stack": one.mark.stack and not one.mark.aggregate,
                "c_name": rows.quoted(one.event),
                "c_place": rows.quoted(one.place),
                "c_kind": rows.quoted(one.mark.aggregate or "records"),
                "c_format": shown,
                "c_arguments": [f.argument for f in fields],
                "c_print_fmt": rows.quoted(told),
                "on": _symbol("on", module, one.number),
                "emit": _symbol("emit", module, one.number),
                "parameters": _parameters(one, fields, named=True),
                "every": one.mark.every,
                "limit": one.mark.limit,
                "aggregate": one.mark.aggregate,
                "value": one.said.value is not None,
                "armed": armed and bool(one.mark.aggregate),
            }
        )
    return "\n" + render(
        "marks.c.j2",
        module=module,
        marks=marks,
        armed=armed,
        c_module=rows.quoted(module),
        c_file=rows.quoted(f"{module}.marks"),
    )


def _own_symbols(field: rows.MarkField, number: int) -> rows.MarkField:
    """The tables of names are of one mark each: two marks may have fields of one name."""
    name = f"bespoke_symbols_{field.name}"
    return replace(field, argument=field.argument.replace(name, f"bespoke_symbols_{number}_{field.name}"))


def _shown(one: PlacedMark, fields: Sequence[rows.MarkField]) -> tuple[str, str]:
    """The text of a record: as a C string without its quotes, and as the event's format file has it."""
    if one.said.format is None:
        text = " ".join(f"{f.name}={f.shown}" for f in fields)
    else:
        parts, rest = [], one.said.format
        for field, conversion in zip(fields, one.said.conversions, strict=True):
            before, _, rest = rest.partition(conversion.text)
            parts += [rows.quoted(before)[1:-1], field.shown]
        text = "".join([*parts, rows.quoted(rest)[1:-1]])
    told = "".join(f", {f.told}" for f in fields)
    return text, f'"{text}"{told}'


def write_patch(marked: MarkedSource, folder: Path) -> Path:
    """The patch as a file of `folder`, called after what it is."""
    path = folder / "marks.patch"
    path.write_text(marked.patch, encoding="utf-8", errors="surrogateescape")
    return path

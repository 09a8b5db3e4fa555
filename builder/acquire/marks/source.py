"""The source of a set of marks: spots found, expressions judged, statements and records written, as one patch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire.marks.edits import Text, applied, as_patch, file_edits
from builder.acquire.marks.fields import MarkField
from builder.acquire.marks.find import Finder
from builder.acquire.marks.judging import Judging, PlacedMark
from builder.acquire.marks.place import MarkPlace, MarkSpot
from builder.acquire.marks.records import as_value, mark_symbol, parameters, write_records
from builder.acquire.marks.types import Layouts
from builder.acquire.marks.words import Mark, understood
from builder.acquire.patch import patched_files
from builder.acquire.source import SourceTree
from builder.errors import InputError, Refusal, RefusedError, UsageError

CARRIER: Final = "lib/argv_split.c"
"""A small object of every kernel, to which the code that makes the records is added."""


@dataclass(frozen=True)
class MarkedSource:
    """The patch that puts marks into the source, and what each of them is; fields by name and type, as written."""

    patch: str
    placed: tuple[PlacedMark, ...]
    fields: tuple[tuple[MarkField, ...], ...]
    types: tuple[tuple[str, ...], ...]

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that were marked."""
        return tuple(dict.fromkeys(spot.function.name for one in self.placed for spot in one.all_spots))


@dataclass(frozen=True, slots=True)
class MarkPlan:
    """What is asked of a set of marks beside the marks: the `module` that their events are called after, and whether
    they record from the start (`armed`).

    `generation` is the number of this set among those that stand on one another. `patches` change the source first:
    those of an earlier livepatch, whose versions are to be marked.
    """

    module: str
    generation: int = 1
    armed: bool = False
    patches: tuple[Path, ...] = ()


def mark_source(marks: Sequence[Mark], tree: SourceTree, layouts: Layouts, plan: MarkPlan) -> MarkedSource:
    """The patch for `marks` in `tree`.

    Raises RefusedError with what is wrong with a place or an expression, in the user's words.
    """
    patched = patched_files(plan.patches, tree)
    with tree.in_use(), tree.objects() as objects:
        finder = Finder(tree, objects, patched)
        placed = _placed(marks, finder)
        judged = Judging(tree, objects, layouts, placed, patched).all()
        changed: dict[str, tuple[bytes, bytes]] = {}
        statements = [row for one in placed for row in _statements(one, plan.module, judged[one.number].fields)]
        for path, edits in file_edits(statements).items():
            before = finder.source(path).text
            if b"__bespoke" in before:
                raise InputError("has names that begin with __bespoke already: it is marked, or not the kernel's",
                                 where=path)  # fmt: skip
            changed[path] = (before, applied(before, edits)[0])
        before, after = changed.get(CARRIER, (finder.source(CARRIER).text,) * 2)
        changed[CARRIER] = (
            before,
            after + write_records(placed, judged, plan.module, plan.generation, armed=plan.armed).encode(),
        )
    head = f"marks: {', '.join(one.mark.place for one in placed)}\n"
    return MarkedSource(
        as_patch(changed, head),
        placed,
        tuple(judged[one.number].fields for one in placed),
        tuple(judged[one.number].types for one in placed),
    )


def _placed(marks: Sequence[Mark], finder: Finder) -> tuple[PlacedMark, ...]:
    """Every mark at its place; all that is refused, together."""
    out: list[PlacedMark] = []
    refusals: list[Refusal] = []
    taken = {mark.name for mark in marks if mark.name}
    for number, mark in enumerate(marks):
        try:
            if mark.name and any(mark.name == other.name for other in marks[:number]):
                raise UsageError(f"there are two marks {mark.name}: give each a name of its own")
            place = MarkPlace.parse(mark.place)
            said = understood(mark)
            spots, until = (_spots(finder, text) if text else () for text in (mark.place, mark.until))
        except RefusedError as refused:
            refusals += refused.refusals
            continue
        event = mark.name or _unused(_event_name(place, spots), taken)
        out.append(PlacedMark(number, mark, said, spots, until, event))
    if refusals:
        raise RefusedError(refusals)
    return tuple(out)


def _spots(finder: Finder, text: str) -> tuple[MarkSpot, ...]:
    spots = finder.spots(MarkPlace.parse(text))
    if not spots:
        raise RefusedError([Refusal("mark-place", text, "", f"{text}: there is no return in it", "mark a line of it")])
    return spots


#: files that every folder of events has beside them (event_create_dir and create_event_toplevel_files, v6.1)
_NOT_EVENTS: Final = frozenset(("enable", "filter"))


def _unused(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it where another mark has it."""
    found, count = f"{name}_" if name in _NOT_EVENTS else name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def _event_name(place: MarkPlace, spots: Sequence[MarkSpot]) -> str:
    name = spots[0].function.name
    if place.returns:
        return f"{name}_return"
    return name if place.function and not place.plus and not place.wanted else f"{name}_{spots[0].line}"


def write_patch(marked: MarkedSource, folder: Path) -> Path:
    """The patch as a file of `folder`, called after what it is."""
    path = folder / "marks.patch"
    path.write_text(marked.patch, encoding="utf-8", errors="surrogateescape")
    return path


def _statements(one: PlacedMark, module: str, fields: Sequence[MarkField]) -> Iterator[tuple[MarkSpot, Text]]:
    """What stands in the functions: off, it costs a test and a branch that is not taken."""
    on, emit, until = (mark_symbol(kind, module, one.number) for kind in ("on", "emit", "until"))
    condition = f" && ({one.said.condition.code})" if one.said.condition else ""
    passed = ", ".join(f.code for f in fields)
    if one.said.value is not None:
        passed = as_value(one, one.said.value)
    for spot in one.spots:
        yield spot, [_guarded(on, emit, condition, parameters(one, fields), passed)]
    for spot in one.until:
        assert one.said.until_value is not None
        yield spot, [_guarded(on, until, "", "unsigned long long", as_value(one, one.said.until_value))]


def _guarded(on: str, emit: str, condition: str, parameters: str, passed: str) -> str:
    return (
        f"{{ extern unsigned char {on}; if (__builtin_expect(*(volatile unsigned char *)&{on}, 0){condition}) "
        f"{{ extern void {emit}({parameters}) __attribute__((cold)); {emit}({passed}); }} }}"
    )

"""The instructions of a function and of its old version side by side, names in place of relocations.

Two instructions stand in one row when they do the same: relocations compare by
meaning, branches by where the rows say that they lead. What did not change is
cut into stretches that a page can fold.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice, zip_longest
from typing import Literal

from builder.arch import Instruction
from builder.binary import Relocation, SectionIndex, SectionOffset
from builder.compare import Atom, Comparison, View
from builder.compare.dwarf import LineTable
from builder.compare.instruction_map import instruction_map
from builder.compare.meaning import Meaning
from builder.compare.sequences import rising
from builder.compare.view import Target

ListedKind = Literal["same", "changed", "removed", "added"]
ListedPlace = tuple[SectionIndex, int]
"""Section index and offset."""
Listed = tuple[int | None, int | None]
"""Numbers of an old and a new instruction that stand in one row."""
Confidence = tuple[ListedKind, Instruction | None, Instruction | None]

# Unchanged rows shown around a change, and the fewest that are worth folding.
_CONTEXT = 3
_FEWEST = 4
_TEXT = 96


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction: offset from the function's entry, text, what its relocations mean, source line if it is new."""

    offset: int
    text: str
    note: str
    source: str


@dataclass(frozen=True, slots=True)
class Row:
    """`changed` has both sides, `removed` and `added` one; `same` has both, or only the new one of a new function."""

    kind: ListedKind
    old: Line | None
    new: Line | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows in order. `left_out` counts those at its end that a limit took away."""

    folded: bool
    rows: tuple[Row, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A function in stretches. `changed`, `removed` and `added` count rows, `left_out` those that are not listed."""

    stretches: tuple[Stretch, ...]
    both: bool
    rows: int
    changed: int
    removed: int
    added: int
    left_out: int


class Listings:
    """Listings of one comparison's functions; `most` rows of each, None for all."""

    def __init__(self, comparison: Comparison, most: int | None) -> None:
        self.comparison = comparison
        self.most = most
        self._aligned: dict[Atom, list[Listed]] = {}
        self._moved: dict[ListedPlace, ListedPlace] = {}

    def of(self, atom: Atom) -> Listing:
        """The listing of an atom of the new object, its `.cold` parts not included."""
        old = self.comparison.correlation.twins.get(atom)
        if old is None:
            view = self.comparison.new
            plain: list[Confidence] = [("same", None, i) for i in _instructions(view, atom)]
            return self._cut(atom, None, plain)
        return self._cut(atom, old, list(self._judged(old, atom)))

    def source(self, atom: Atom) -> str:
        """`file.c:LINE` of a new atom's first instruction, empty without DWARF."""
        found = self._tables[1].find(atom.section.index, atom.entry) if self._tables[1] else None
        return f"{found[0]}:{found[1]}" if found else ""

    @cached_property
    def _tables(self) -> tuple[LineTable | None, LineTable | None]:
        return LineTable.of(self.comparison.old.obj), LineTable.of(self.comparison.new.obj)

    # Which instructions stand in one row.

    def _align(self, atom: Atom) -> None:
        """Align an atom with its twin, and with it all parts of the function: branches lead from one to another."""
        comparison = self.comparison
        parent = next((p for p, parts in comparison.children.items() if atom in parts), atom)
        mapped: dict[Atom, list[tuple[int, int]]] = {}
        for row in instruction_map(comparison, parent).pairs:
            old, new = row.old_part.entry + row.old_offset, row.new_part.entry + row.new_offset
            self._moved[row.old_part.section.index, old] = row.new_part.section.index, new
            if comparison.correlation.twins.get(row.new_part) is row.old_part:
                mapped.setdefault(row.new_part, []).append((old, new))
        for part in (parent, atom, *comparison.children.get(parent, ())):
            twin = comparison.correlation.twins.get(part)
            if twin is not None:
                first, second = _instructions(comparison.old, twin), _instructions(comparison.new, part)
                # of rows that cross, the fewest are left out
                self._aligned[part] = _steps(first, second, rising(mapped.get(part, [])))

    def _judged(self, old: Atom, new: Atom) -> Iterator[Confidence]:
        if new not in self._aligned:
            self._align(new)
        first, second = _instructions(self.comparison.old, old), _instructions(self.comparison.new, new)
        for a, b in self._aligned[new]:
            left, right = None if a is None else first[a], None if b is None else second[b]
            if left is None or right is None:
                yield "added" if left is None else "removed", left, right
            else:
                yield "same" if self._equal(old, left, new, right) else "changed", left, right

    def _equal(self, old: Atom, a: Instruction, new: Atom, b: Instruction) -> bool:
        before, after = self.comparison.old, self.comparison.new
        if self._key(before, old, a) != self._key(after, new, b):
            return False
        goals = list(self._goals(before, old, a))
        others = list(self._goals(after, new, b))
        return len(goals) == len(others) and all(self._moved.get(x, x) == y for x, y in zip(goals, others, strict=True))

    def _key(self, view: View, atom: Atom, insn: Instruction) -> object:
        """Equal for instructions that do the same, wherever inside the function they branch to."""
        rows = view.relocations_at(atom, insn)
        if insn.target is not None and not rows:
            outside = None if atom.entry <= insn.target <= atom.end else view.goal(atom, insn)
            return insn.mnemonic, outside and self.comparison.correlation.identity(outside)
        code = view.cleared(atom.section.data[insn.offset : insn.end], atom.section, insn.offset, rows)
        of = self.comparison.meanings.of
        meanings = tuple((r.offset - insn.offset, _placeless(of(view, atom, r, lines=False))) for r in rows)
        return insn.mnemonic, code, meanings

    def _goals(self, view: View, atom: Atom, insn: Instruction) -> Iterator[ListedPlace]:
        """Places inside of functions that an instruction leads to, directly or by a table of addresses."""
        rows = view.relocations_at(atom, insn)
        if insn.target is not None and not rows and atom.entry <= insn.target <= atom.end:
            yield _landing(view, atom, insn.target)
        for r in rows:
            target = view.target(r, view.bias(atom, r))
            if target.kind == "section" and target.section is not None and not target.section.is_string:
                if target.section.is_write or target.section.is_nobits:
                    continue
                start, end = view.piece(target.section, target.place)
                for entry in view.relocations_in(target.section.index, start, end):
                    yield from _inside(view, view.target(entry))
            else:
                yield from _inside(view, target)

    def _gone(self, old: Atom | None, new: Atom, a: Instruction | None, b: Instruction | None) -> str:
        """Where an old instruction went that does not stand beside its new place."""
        place = self._moved.get((old.section.index, a.offset)) if old and a else None
        if place is None or (b and place == (new.section.index, b.offset)):
            return ""
        holder = self.comparison.new.atom_at(place[0], SectionOffset(place[1]))
        if holder is None:
            return ""
        return f"now at {'' if holder is new else holder.name}{place[1] - holder.entry:+#x}"

    # What a row says.

    def _cut(self, new: Atom, old: Atom | None, rows: Sequence[Confidence]) -> Listing:
        """Stretches of rows within the limit: what changed comes first, then what is folded."""
        spans = list(_spans([kind for kind, _, _ in rows])) if old is not None else [(False, 0, len(rows))]
        room = len(rows) if self.most is None else self.most
        shown = {}
        for folded in (False, True):
            for span in spans:
                if span[0] is folded:
                    shown[span] = min(span[2] - span[1], room)
                    room -= shown[span]
        writers = _Writer(self.comparison.old, old, self._tables[0]), _Writer(self.comparison.new, new, self._tables[1])
        stretches = []
        for span in spans:
            folded, start, end = span
            upto = start + shown[span]
            for writer in writers:
                writer.start()
            lines = tuple(
                Row(kind, writers[0].line(a, self._gone(old, new, a, b)), writers[1].line(b))
                for kind, a, b in rows[start:upto]
            )
            stretches.append(Stretch(folded, lines, end - upto))
        counts = Counter(kind for kind, _, _ in rows)
        return Listing(
            stretches=tuple(stretches),
            both=old is not None,
            rows=len(rows),
            changed=counts["changed"],
            removed=counts["removed"],
            added=counts["added"],
            left_out=sum(s.left_out for s in stretches),
        )


class _Writer:
    """Lines of one side; a source line is said where it changes, its file where that changes or a stretch starts."""

    def __init__(self, view: View, atom: Atom | None, table: LineTable | None) -> None:
        self.view, self.atom, self.table = view, atom, table
        self._last: tuple[str, int] | None = None

    def start(self) -> None:
        """Of a stretch: what stands above may be folded."""
        self._last = None

    def line(self, insn: Instruction | None, more: str = "") -> Line | None:
        if insn is None or self.atom is None:
            return None
        text, note = instruction_text(self.view, self.atom, insn)
        note = ", ".join(filter(None, (note, more)))
        return Line(insn.offset - self.atom.entry, text, note, self._source(self.atom, insn))

    def _source(self, atom: Atom, insn: Instruction) -> str:
        found = self.table.find(atom.section.index, insn.offset) if self.table else None
        if found is None or found == self._last:
            return ""
        file = "" if self._last and self._last[0] == found[0] else found[0]
        self._last = found
        return f"{file}:{found[1]}"


def instruction_text(view: View, atom: Atom, insn: Instruction) -> tuple[str, str]:
    """An instruction as people read it, and what its relocations lead to where the text does not say so."""
    code = atom.section.data[insn.offset : insn.end]
    text = view.arch.text(code, insn.offset - atom.entry)
    rows = view.relocations_at(atom, insn)
    if not rows:
        if insn.target is None:
            return text, ""
        target = view.goal(atom, insn)
        inside = target is atom or target is None
        goal = f"{insn.target - atom.entry:+#x}" if inside else _at(target, insn.target)
        return f"{text.split()[0]} {goal}", ""
    names = [target_text(view, atom, r) for r in rows]
    if view.arch.is_direct_transfer(code) and len(names) == 1:
        return f"{text.split()[0]} {names[0]}", ""
    return text, ", ".join(names)


def target_text(view: View, atom: Atom, relocation: Relocation) -> str:
    """What a relocation leads to: a name with its offset, a string, or a table of addresses."""
    target = view.target(relocation, view.bias(atom, relocation))
    if target.atom is not None:
        return _at(target.atom, target.atom.entry + target.offset) if target.offset else target.atom.name
    if target.kind == "absolute":
        return f"{target.symbol.value + target.offset:#x}"
    if target.section is None:
        return target.symbol.name + (f"{target.offset:+#x}" if target.offset else "")
    if target.section.is_string:
        text = str(target.section.string_at(target.place))
        short = text if len(text) <= _TEXT else text[:_TEXT] + "…"
        return '"' + short.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace('"', '\\"') + '"'
    if not target.section.is_nobits:
        start, end = view.piece(target.section, target.place)
        count = len(view.relocations_in(target.section.index, start, end))
        if count:
            return f"table of {count} addresses in {target.section.name}"
    return f"{target.section.name}{target.offset:+#x}"


def _at(atom: Atom | None, offset: int) -> str:
    assert atom is not None
    return atom.name + (f"{offset - atom.entry:+#x}" if offset != atom.entry else "")


def _instructions(view: View, atom: Atom) -> list[Instruction]:
    """Those that do something: NOPs are padding."""
    return [i for i in view.instructions(atom) if not i.is_nop]


def _placeless(meaning: Meaning) -> object:
    """A meaning without the place inside a function: the rows tell whether that is the same."""
    if meaning[0] == "code":
        return meaning[:2]
    if meaning[0] == "piece" and isinstance(meaning[2], tuple) and meaning[2][0] == "bytes":
        return (*meaning[:2], meaning[2][1], tuple(_placeless(row[2]) for row in meaning[2][2]))
    return meaning


def _inside(view: View, target: Target) -> Iterator[ListedPlace]:
    if target.atom is not None and target.atom.is_function and target.offset:
        yield _landing(view, target.atom, target.atom.entry + target.offset)


def _landing(view: View, atom: Atom, offset: int) -> ListedPlace:
    """The first instruction from an offset on that does something; a place of no section at the end of the function."""
    rows = view.instructions(atom)
    insn = next((i for i in islice(rows, bisect_left(rows, (offset,)), None) if not i.is_nop), None)
    return (atom.section.index, insn.offset) if insn else (SectionIndex(-1), 0)


def _steps(old: Sequence[Instruction], new: Sequence[Instruction], pairs: Iterable[tuple[int, int]]) -> list[Listed]:
    """Rows of what is paired, by offsets; what lies between two of them stands side by side."""
    olds, news = {insn.offset: k for k, insn in enumerate(old)}, {insn.offset: k for k, insn in enumerate(new)}
    known = [(olds[a], news[b]) for a, b in pairs if a in olds and b in news]
    steps: list[Listed] = []
    i = j = 0
    for a, b in known:
        steps += [*zip_longest(range(i, a), range(j, b)), (a, b)]
        i, j = a + 1, b + 1
    steps += zip_longest(range(i, len(old)), range(j, len(new)))
    return steps


def _spans(kinds: Sequence[ListedKind]) -> Iterator[tuple[bool, int, int]]:
    """(folded, start, end): changes with a few rows around them, and the unchanged rows between."""
    near = [False] * len(kinds)
    for k, kind in enumerate(kinds):
        if kind != "same":
            for at in range(max(k - _CONTEXT, 0), min(k + _CONTEXT + 1, len(kinds))):
                near[at] = True
    runs = [(shown, len(list(group))) for shown, group in groupby(near)]
    start = 0
    for shown, count in _joined(runs):
        yield not shown, start, start + count
        start += count


def _joined(runs: Sequence[tuple[bool, int]]) -> Iterator[tuple[bool, int]]:
    """Runs with those that are too short to fold counted among the shown."""
    waiting = 0
    for shown, count in runs:
        if shown or (count < _FEWEST and len(runs) > 1):
            waiting += count
            continue
        if waiting:
            yield True, waiting
            waiting = 0
        yield False, count
    if waiting:
        yield True, waiting

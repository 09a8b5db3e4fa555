"""The instruction map: what it pairs is one operation, and stands on one line of the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from unidiff import PatchSet  # type: ignore[attr-defined]

from builder.binary.pair import read_pair
from builder.compare import Atom, Comparison, compare
from builder.compare.dwarf import LineTable
from builder.compare.instruction_map import MappedRow, instruction_map
from builder.compare.unit import UnitLine, unit

LineMap = Callable[[int], int | None]


def pairs(data: Path) -> Iterator[tuple[Path, Comparison]]:
    for root in ("running-6.1.0-50/pairs", "corpus/pairs"):
        for place in sorted((data / root).iterdir()):
            yield place, compare(*read_pair(place / "orig.o", place / "patched.o"))


def units(comparison: Comparison, atom: Atom) -> tuple[list[UnitLine], list[UnitLine]]:
    old = comparison.correlation.twins[atom]
    return (
        unit(comparison, comparison.old, (old, *comparison.old_children.get(old, ()))),
        unit(comparison, comparison.new, (atom, *comparison.children.get(atom, ()))),
    )


@pytest.mark.data
@pytest.mark.slow
def test_pairs_are_one_operation_with_one_target(data: Path) -> None:
    total = mapped = 0
    for _, comparison in pairs(data):
        for atom in comparison.changed:
            rows = instruction_map(comparison, atom).pairs
            old, new = units(comparison, atom)
            olds = {(line.part, line.offset): line for line in old}
            news = {(line.part, line.offset): line for line in new}
            for row in rows:
                a, b = olds[row.old_part, row.old_offset], news[row.new_part, row.new_offset]
                assert a.insn.mnemonic == b.insn.mnemonic
                assert a.meanings == b.meanings and a.operation.form == b.operation.form
                assert 1 <= row.confidence <= 100
            assert len({(r.new_part, r.new_offset) for r in rows}) == len(rows)
            total += sum(not line.insn.is_nop for line in old)
            mapped += sum(not olds[r.old_part, r.old_offset].insn.is_nop for r in rows)
    print(f"\n{mapped} of {total} instructions of changed functions are mapped: {mapped / total:.1%}")
    assert mapped / total > 0.85


@pytest.mark.data
@pytest.mark.slow
def test_functions_with_one_change_are_mapped_whole(data: Path) -> None:
    """Only constants differ, or one block was put in."""
    seen = 0
    for _, comparison in pairs(data):
        for atom in comparison.changed:
            old, new = units(comparison, atom)
            first, second = [line.keys[1] for line in old], [line.keys[1] for line in new]
            steps = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
            codes = [code for code, *_ in steps if code != "equal"]
            if codes not in ([], ["insert"]):
                continue
            seen += 1
            mapped = len(instruction_map(comparison, atom).pairs)
            assert mapped >= 0.99 * len(old), f"{atom.name}: {mapped} of {len(old)}"
    assert seen >= 5


def source_lines(patch: Path) -> dict[str, LineMap]:
    """By file name, where each line of the old source is in the new one; None for one that is gone."""
    out: dict[str, LineMap] = {}
    for file in PatchSet(patch.read_text()):
        hunks = [(h.source_start, h.source_length, h.target_start, h.target_length, list(h)) for h in file]

        def follow(line: int, hunks: list[tuple[int, int, int, int, list]] = hunks) -> int | None:  # type: ignore[type-arg]
            shift = 0
            for start, length, new_start, new_length, rows in hunks:
                if line < start:
                    break
                if line < start + length:
                    return next((row.target_line_no for row in rows if row.source_line_no == line), None)
                shift = new_start + new_length - start - length
            return line + shift

        out[Path(file.path).name] = follow
    return out


@pytest.mark.data
@pytest.mark.slow
def test_pairs_lie_on_corresponding_lines(data: Path) -> None:
    right = wrong = 0
    for place, comparison in pairs(data):
        old, new = LineTable.of(comparison.old.obj), LineTable.of(comparison.new.obj)
        if old is None or new is None:
            continue
        follow = source_lines(place / "source.diff")
        for atom in comparison.changed:
            for row in instruction_map(comparison, atom).pairs:
                verdict = same_line(row, old, new, follow)
                right += verdict is True
                wrong += verdict is False
    print(f"\n{right} of {right + wrong} mapped pairs lie on corresponding lines: {right / (right + wrong):.1%}")
    assert right / (right + wrong) >= 0.98


def same_line(row: MappedRow, old: LineTable, new: LineTable, follow: dict[str, LineMap]) -> bool | None:
    """None where it cannot be told: no line, or one that the patch takes away."""
    a = old.find(row.old_part.section.index, row.old_part.entry + row.old_offset)
    b = new.find(row.new_part.section.index, row.new_part.entry + row.new_offset)
    if a is None or b is None:
        return None
    file = Path(a[0]).name
    line = follow[file](a[1]) if file in follow else a[1]
    return None if line is None else (file, line) == (Path(b[0]).name, b[1])

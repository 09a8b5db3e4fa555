"""Pairs of our own in the style of the cases of the test data (tests/cases/written.py says how a row is read)."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.patchfile import read_patch
from builder.acquire.shifts import shifts_of
from builder.pipeline import diff_objects
from tests.cases import rows_code, rows_data, rows_judgement, rows_lines, rows_names, rows_same, rows_tables
from tests.cases.written import Row, faults
from tests.support.compiling import FLAGS, TRACED, builder

FILES = (rows_names, rows_data, rows_code, rows_tables, rows_same, rows_lines, rows_judgement)
ROWS: tuple[Row, ...] = tuple(row for file in FILES for row in file.ROWS)
COMPILERS = {"gcc": TRACED, "clang": (*FLAGS, "-pg", "-mfentry")}


@pytest.mark.parametrize(
    ("compiler", "row"),
    [
        pytest.param(
            c,
            row,
            id=f"{row.name} ({c})",
            marks=[pytest.mark.xfail(strict=True, reason=row.missing)] if row.missing else (),
        )
        for row in ROWS
        for c in COMPILERS
        if row.right_for(c)
    ],
)
def test_a_pair_gives_what_is_right(request: pytest.FixtureRequest, tmp_path: Path, compiler: str, row: Row) -> None:
    build = builder(request.getfixturevalue(compiler), tmp_path, COMPILERS[compiler])
    old, new = (build(text, *row.flags) for text in row.texts())
    patch = tmp_path / "fix.patch"
    patch.write_text(row.patch())
    shifts = shifts_of(read_patch(patch)) if row.patched else ()
    assert faults(row.right_for(compiler), diff_objects(old, new, shifts=shifts)) == []


def test_there_are_enough_of_each_and_each_has_a_name_of_its_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(sum(bool(row.right_for(compiler)) for row in ROWS) >= 30 for compiler in COMPILERS)

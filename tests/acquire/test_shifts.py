"""How a patch's hunks move lines: held against what `difflib` says of the two texts, and against texts applied."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.acquire.patchfile import apply_all, read_patch
from builder.acquire.shifts import Shift, shifts_of

LINES = st.lists(st.sampled_from(["a", "b", "c", "", "}"]), max_size=30)


def patch(old: list[str], new: list[str], path: str = "fs/x.c", context: int = 3) -> str:
    rows = difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", lineterm="", n=context)
    return "".join(f"{row}\n" for row in rows)


def shifts(place: Path, *texts: str) -> tuple[Shift, ...]:
    file = place / "fix.patch"
    file.write_text("".join(texts))
    return shifts_of(read_patch(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shifts")


@settings(max_examples=150)
@given(LINES, LINES, st.integers(0, 3))
def test_a_line_that_stays_is_found_where_it_is(place: Path, old: list[str], new: list[str], context: int) -> None:
    text = patch(old, new, context=context)
    if not text:
        return
    (shift,) = shifts(place, text)
    stays: dict[int, int] = {}
    for block in difflib.SequenceMatcher(None, old, new).get_matching_blocks():
        stays |= {block.a + k + 1: block.b + k + 1 for k in range(block.size)}
    assert {line: shift.moved(line) for line in range(1, len(old) + 1)} == {
        line: stays.get(line) for line in range(1, len(old) + 1)
    }


@given(LINES, LINES, LINES)
def test_patches_of_one_file_move_it_one_after_the_other(
    place: Path, first: list[str], second: list[str], third: list[str]
) -> None:
    texts = [patch(first, second), patch(second, third)]
    if not all(texts):
        return
    (both,) = shifts(place, *texts)
    (one,), (other,) = shifts(place, texts[0]), shifts(place, texts[1])
    for line in range(1, len(first) + 1):
        between = one.moved(line)
        assert both.moved(line) == (None if between is None else other.moved(between))


def test_each_file_has_its_own_and_new_files_have_none(tmp_path: Path) -> None:
    texts = patch(["a", "b"], ["x", "a", "b"]), patch(["a"], ["x", "y", "a"], "fs/y.c")
    added = "--- /dev/null\n+++ b/fs/z.h\n@@ -0,0 +1 @@\n+x\n"
    found = shifts(tmp_path, *texts, added)
    assert [(shift.path, shift.moved(1)) for shift in found] == [("fs/x.c", 2), ("fs/y.c", 3)]


def test_hunks_that_stand_elsewhere_move_what_is_there(tmp_path: Path) -> None:
    """The tree has three lines more in front than the file that the patch was made for."""
    old = [f"line {number}" for number in range(20)]
    new = [*old[:10], "more", *old[10:]]
    file = tmp_path / "fix.patch"
    file.write_text(patch(old, new))
    tree = "".join(f"{row}\n" for row in ["x", "y", "z", *old])
    applied = apply_all(read_patch(file), lambda path: tree.encode())
    (shift,) = shifts_of(applied.changes)
    assert applied.moved and [shift.moved(line) for line in (1, 13, 14, 23)] == [1, 13, 15, 24]

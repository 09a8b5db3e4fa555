"""The ten patches: what their heads say, built from source, happens in a stock kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.binary.kernel.target import Kernel
from builder.errors import InputError
from builder.image.guest import Answer
from samples.fixes import Fix, all_fixes, make_and_try, read_fix

FIXES = all_fixes()
BY_NAME = read_fix(Path(__file__).with_name("by_name.patch"))
"""What the kernel finds by the name of its section (NAMED in builder/binary/tables.py)."""

CARRIED = read_fix(Path(__file__).parent.parent / "guest/carriers/syscall.patch")
"""A file without ftrace, whose change its caller in another file carries; more of them: tests/guest/carriers.py."""


def test_there_are_ten_and_the_series_names_them() -> None:
    folder = FIXES[0].path.parent
    assert len(FIXES) == 10
    assert (folder / "series").read_text().split() == [fix.path.name for fix in FIXES]


def answers(before: str, during: str, after: str) -> dict[str, Answer]:
    return {
        phase: Answer(status=0, output=text, seconds=0.0)
        for phase, text in (("before", before), ("with", during), ("after", after))
    }


def test_a_patch_without_its_effect_is_a_fault() -> None:
    fix = Fix(path=Path("x.patch"), title="", command="x", load=(), before="^old$", after="^new$")
    assert fix.faults(answers("old", "new", "old")) == []
    assert fix.faults(answers("old", "old", "old")) == ["with: no line like ^new$"]
    assert fix.faults(answers("old", "new", "new")) == ["after: no line like ^old$", "after: a line like ^new$"]
    assert len(fix.faults({})) == 3


def test_a_head_must_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.patch").write_text("title\n\nRun: \\\n  two \\\n  lines\nBefore: a\n--- a/x\n+++ b/x\nWith: no\n")
    with pytest.raises(InputError, match=r"x\.patch: its head has no line With:"):
        read_fix(tmp_path / "x.patch")


@pytest.fixture(scope="session")
def kernel(release_61: str) -> Kernel:
    return Kernel.open(release_61)


@pytest.mark.guest
@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fix", [*FIXES, BY_NAME, CARRIED], ids=lambda fix: fix.path.stem)
def test_a_fix_does_what_it_says(fix: Fix, kernel: Kernel, tmp_path: Path) -> None:
    outcome = make_and_try(fix, kernel, tmp_path)
    assert outcome.failure == ""
    assert outcome.functions

"""The small objects of the test data that once went wrong, one for each class, and what is right for each.

Each class has tests on sources of its own beside the code that it concerns
(tests/compare, tests/compose); here the data's own inputs are held to the same.
"""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.acquire.patchfile import read_patch
from builder.acquire.shifts import shifts_of
from builder.cli import run
from builder.compose.outcome import Diff
from builder.pipeline import diff
from tests.conftest import data_root

pytestmark = pytest.mark.data

FLAGS = (
    "-c", "-std=gnu11", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-fno-pie", "-mcmodel=kernel",
    "-mno-sse", "-mno-red-zone", "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-fcf-protection=none",
    "-pg", "-mfentry", "-mrecord-mcount", "-fno-common", "-w",
)  # fmt: skip


@dataclass(frozen=True)
class Right:
    """What is right: the changed functions, or else one of these codes of refusal; other lists name parts."""

    changed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    line_only: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    """What stays an original of the kernel's."""
    travels: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    patched: bool = False
    """Whether the patch between the two sources is given."""

    def faults(self, found: Diff) -> list[str]:
        functions, codes = found.as_json()["functions"], [refusal.code for refusal in found.judged.refusals]
        faults = []
        if codes and not set(codes) & set(self.refused):
            faults.append(f"refused: {codes}")
        if not codes and functions["changed"] != list(self.changed):
            faults.append(f"changed: {functions['changed']}")
        if not codes and not self.changed:
            faults.append("not refused")
        faults += [f"{name} is not line only" for name in self.line_only if name not in functions["line_only"]]
        originals = [row[0] for row in found.originals()]
        travelling = {atom.name for atom in found.selection.functions}
        if not codes:
            faults += [f"{name} does not travel" for name in self.travels if name not in travelling]
            faults += [f"{name} is not bound to the original" for name in self.bound if name not in originals]
        return faults


RIGHT = {
    "alias-retargeted": Right(refused=("alias-changed", "unaccounted")),
    "constant-moves-with-its-line": Right(changed=("f",), flags=("-g",)),
    "end-of-array": Right(changed=("f",), refused=("address-ambiguous", "unaccounted"), bound=("arr",)),
    "label-table-entries-swapped": Right(changed=("f",)),
    "leaves-init-text": Right(changed=("run",), travels=("setup",)),
    "line-number-without-dwarf": Right(changed=("k",), line_only=("f",), patched=True),
    "percpu-to-plain": Right(refused=("storage-changed",)),
    "same-named-statics-swapped": Right(refused=("static-ambiguous",)),
    "table-of-unknown-section": Right(changed=("f",), refused=("unknown-table",)),
    "ubsan-data": Right(changed=("f",), flags=("-fsanitize=bounds",)),
    "variable-named-like-a-compilers": Right(changed=("f",), bound=("descriptor",)),
    "warn-argument": Right(changed=("f",)),
    "wide-string": Right(changed=("f",)),
}
"""By the folder under `cases/objects`."""


def compiled(gcc: str, place: Path, source: Path, side: str, flags: tuple[str, ...]) -> Path:
    """Both sides are compiled under one name, as two versions of a file are."""
    folder = place / side
    folder.mkdir()
    shutil.copy(source / f"{side}.c", folder / "unit.c")
    subprocess.run([gcc, *FLAGS, *flags, "unit.c", "-o", "unit.o"], cwd=folder, check=True)
    return folder / "unit.o"


def pair(gcc: str, name: str, place: Path, flags: tuple[str, ...] = ()) -> tuple[Path, Path]:
    source = data_root() / "cases/objects" / name
    if not source.is_dir():
        pytest.skip(f"no case {name} in the test data")
    return compiled(gcc, place, source, "old", flags), compiled(gcc, place, source, "new", flags)


def source_patch(place: Path) -> Path:
    """The patch between the sources that were compiled there."""
    old, new = ((place / side / "unit.c").read_text().splitlines(keepends=True) for side in ("old", "new"))
    path = place / "fix.patch"
    path.write_text("".join(difflib.unified_diff(old, new, "a/unit.c", "b/unit.c")))
    return path


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_case_gives_what_is_right(gcc: str, name: str, tmp_path: Path) -> None:
    right = RIGHT[name]
    old, new = pair(gcc, name, tmp_path, right.flags)
    shifts = shifts_of(read_patch(source_patch(tmp_path))) if right.patched else ()
    assert right.faults(diff(old, new, shifts=shifts)) == []


@pytest.mark.parametrize("jobs", [None, 1, 2])
def test_the_command_takes_the_patch(
    gcc: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: int | None
) -> None:
    """For one pair and for trees, compared in this process and in others."""
    pair(gcc, "line-number-without-dwarf", tmp_path)
    shutil.copy(tmp_path / "old/unit.o", tmp_path / "old/again.o")
    shutil.copy(tmp_path / "new/unit.o", tmp_path / "new/again.o")
    sides = [str(tmp_path / side / ("unit.o" if jobs is None else ".")) for side in ("old", "new")]
    more = ["-j", str(jobs)] if jobs is not None else []
    patch = source_patch(tmp_path)
    for given, changed in ((["--source-diff", str(patch)], ["k"]), ([], ["f", "k"])):
        assert run(["diff", *sides, *more, *given, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        for found in document.get("pairs", [document]):
            assert found["functions"]["changed"] == changed
            assert [row["code"] for row in found["warnings"]] == ["not-compared"]
    patch.write_text("no patch")
    assert run(["diff", *sides, "--source-diff", str(patch)]) == 2
    assert "fix.patch" in capsys.readouterr().err


def test_no_case_is_left_out() -> None:
    found = {place.name for place in (data_root() / "cases/objects").glob("*")}
    assert found - RIGHT.keys() == set()

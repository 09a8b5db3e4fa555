"""Objects without debug information and the patch of their source: nothing is called changed that only moved."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder.acquire.patchfile import read_patch
from builder.acquire.shifts import Shift, shifts_of
from builder.binary import ObjectFile, read_object
from builder.compare import compare
from builder.compare.verdict import Verdict
from tests.conftest import data_root, need
from tests.support.compiling import Build


def stripped(source: Path, place: Path) -> ObjectFile:
    """As a distribution strips it, which takes the FILE symbols away too."""
    need("objcopy")
    made = place / f"{source.parent.name}-{source.name}"
    subprocess.run(["objcopy", "--strip-debug", source, made], check=True)
    return read_object(made)


def _pairs() -> list[Any]:
    return [pytest.param(place, id=place.name) for place in sorted(data_root().glob("corpus/pairs/*"))]


@pytest.mark.data
@pytest.mark.parametrize("place", _pairs())
def test_no_function_of_a_fix_is_called_changed_that_only_moved_a_line(place: Path, tmp_path: Path) -> None:
    whole = compare(read_object(place / "orig.o"), read_object(place / "patched.o"))
    shifts = shifts_of(read_patch(place / "source.diff"))
    bare = compare(stripped(place / "orig.o", tmp_path), stripped(place / "patched.o", tmp_path), shifts=shifts)
    moved = {atom.name for atom in whole.line_only}
    assert {atom.name for atom in bare.changed} & moved == set()
    assert {atom.name for atom in whole.changed} <= {atom.name for atom in bare.changed}


@pytest.mark.parametrize("path", ["fs/x.c", "fs/y.h"])
def test_an_object_without_file_symbols_may_be_of_the_patch(build: Build, tmp_path: Path, path: str) -> None:
    text = r"""extern void _printk(const char *, ...);
    int f(int x) { _printk("%s:%d\n", __func__, __LINE__); return x; }"""
    old, new = (stripped(Path(build(source).name), tmp_path) for source in (text, "\n\n" + text))
    comparison = compare(old, new, shifts=(Shift(path, ((1, 0, 1, 2),)),))
    assert comparison.functions[comparison.new.by_name["f"]].verdict is Verdict.LINES

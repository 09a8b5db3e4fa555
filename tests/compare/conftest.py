"""Small real objects: C snippets compiled as the kernel compiles its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.binary import ObjectFile, read_object
from builder.compare import Comparison, compare
from tests.conftest import lacks

FLAGS = (
    "-c", "-std=gnu11", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-mcmodel=kernel",
    "-mno-red-zone", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-stack-protector",
    "-fno-strict-aliasing", "-mno-sse", "-w",
)  # fmt: skip

Build = Callable[..., ObjectFile]
Pair = Callable[..., Comparison]


@pytest.fixture(scope="session")
def gcc() -> str:
    program = shutil.which("gcc-12") or shutil.which("gcc")
    if program is None:
        lacks("not installed: gcc (make setup)")
    return program


@pytest.fixture
def build(gcc: str, tmp_path: Path) -> Build:
    """`build(source, *flags)`: the object of one C file (or of assembler, with `language="assembler"`)."""
    return _builder(gcc, tmp_path)


@pytest.fixture(scope="session")
def build_once(gcc: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The same for what several tests look at."""
    return _builder(gcc, tmp_path_factory.mktemp("objects"))


def _builder(gcc: str, folder: Path) -> Build:
    count = 0

    def made(source: str, *flags: str, language: str = "c") -> ObjectFile:
        nonlocal count
        count += 1
        place = folder / str(count)
        place.mkdir()
        # One name for all, so that __FILE__ and the FILE symbol are equal.
        (place / "unit.c").write_text(source)
        run = subprocess.run(
            [gcc, *FLAGS, *flags, "-x", language, "unit.c", "-o", "unit.o"], cwd=place, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return read_object(place / "unit.o")

    return made


@pytest.fixture
def pair(build: Build) -> Pair:
    """`pair(old, new, *flags)`: the comparison of two sources' objects."""

    def made(old: str, new: str, *flags: str) -> Comparison:
        return compare(build(old, *flags), build(new, *flags))

    return made


def names(atoms: object) -> list[str]:
    """Names of atoms, sorted."""
    return sorted(a.name for a in atoms)  # type: ignore[attr-defined]

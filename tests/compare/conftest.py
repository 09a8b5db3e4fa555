"""Small real objects: C snippets compiled as the kernel compiles its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.compare import Comparison, compare
from tests.support.compiling import Build, builder

Pair = Callable[..., Comparison]


@pytest.fixture
def build(gcc: str, tmp_path: Path) -> Build:
    """`build(source, *flags)`: the object of one C file (or of assembler, with `language="assembler"`)."""
    return builder(gcc, tmp_path)


@pytest.fixture(scope="session")
def build_once(gcc: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The same for what several tests look at."""
    return builder(gcc, tmp_path_factory.mktemp("objects"))


@pytest.fixture
def pair(build: Build) -> Pair:
    """`pair(old, new, *flags)`: the comparison of two sources' objects."""

    def made(old: str, new: str, *flags: str) -> Comparison:
        return compare(build(old, *flags), build(new, *flags))

    return made


def names(atoms: object) -> list[str]:
    """Names of atoms, sorted."""
    return sorted(a.name for a in atoms)  # type: ignore[attr-defined]

"""Kernels, guests that stay up for a whole session, and modules of kbuild's making to load in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.image.guest import Guest
from tests.support.kernels import opened
from tests.support.modules import compiled_modules

SOURCES = Path(__file__).parent / "modules"


@pytest.fixture(scope="session")
def kernel_61(release_61: str) -> Kernel:
    return opened(release_61)


@pytest.fixture(scope="session")
def kernel(release: str) -> Kernel:
    """Each of the kernels that are tested, in turn."""
    return opened(release)


@pytest.fixture(scope="session")
def guest(kernel: Kernel) -> Iterator[Guest]:
    """A guest that all tests of one kernel share; a test that breaks it boots its own."""
    with Guest(kernel) as running:
        yield running


def compiled(release: str) -> Mapping[str, Path]:
    """The modules of `modules/`."""
    sources = sorted(path for path in SOURCES.iterdir() if path.is_file())
    return compiled_modules("guest-tests", release, sources)


@pytest.fixture(scope="session")
def built(kernel: Kernel) -> Mapping[str, Path]:
    return compiled(kernel.release)


@pytest.fixture(scope="session")
def built_61(kernel_61: Kernel) -> Mapping[str, Path]:
    return compiled(kernel_61.release)

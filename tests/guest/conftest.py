"""Kernels, guests that stay up for a whole session, and modules of kbuild's making to load in them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder.acquire.cache import published
from builder.acquire.packages import fetch_headers
from builder.acquire.tools import run
from builder.binary.kernel import Kernel
from builder.image.guest import Guest
from tests.conftest import needed
from tests.support.kernels import opened

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
    """The modules of `modules/`, made by kbuild against the distribution's headers; kept in the cache."""
    with needed():
        headers = fetch_headers(release)
    sources = sorted(path for path in SOURCES.iterdir() if path.is_file())
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]

    def make(place: Path) -> None:
        work = place / "work"
        work.mkdir()
        for source in sources:
            shutil.copy(source, work)
        run(["make", "-s", "-C", headers.build, f"M={work}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        for module in work.glob("*.ko"):
            os.replace(module, place / module.name)
        shutil.rmtree(work)

    place = published("samples", f"guest-tests-{release}-{headers.version}-{digest}", make)
    return {path.stem: path for path in place.glob("*.ko")}


@pytest.fixture(scope="session")
def built(kernel: Kernel) -> Mapping[str, Path]:
    return compiled(kernel.release)


@pytest.fixture(scope="session")
def built_61(kernel_61: Kernel) -> Mapping[str, Path]:
    return compiled(kernel_61.release)

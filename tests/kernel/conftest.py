"""Kernels to test with: small ones made to order, and those of the distribution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from tests.support import kernels

Opener = Callable[[bytes], Kernel]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Write an image and open it with a cache of its own."""

    def open_image(content: bytes, name: str = "image") -> Kernel:
        path = tmp_path / name
        path.write_bytes(content)
        return Kernel.open(path, cache=tmp_path / "cache")

    return open_image


@pytest.fixture(scope="module")
def target(release: str) -> Kernel:
    """The distribution's kernels, one after the other; mark the test `kernel` too."""
    return kernels.opened(release)

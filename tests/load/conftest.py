"""Kernels of the distribution, simulated on several CPU models; modules of their own trees and of kbuild's making."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.image.simulated import SimulatedKernel
from builder.load.livepatch import unload_all
from tests.guest.conftest import compiled
from tests.support.kernels import booted, differences, opened, snapshot


@pytest.fixture
def kernel(release: str) -> Kernel:
    """Each kernel that is tested, in turn; mark the test `kernel` too."""
    return opened(release)


@pytest.fixture
def simulated(release: str) -> Iterator[SimulatedKernel]:
    """A simulated kernel that is as it was booted, and must be so again at the end."""
    kernel = booted(release, "max")
    before = snapshot(kernel)
    yield kernel
    unload_all(kernel)
    kernel.execution.console.clear()
    assert differences(before, snapshot(kernel)) == []


@pytest.fixture
def patches(release: str) -> Mapping[str, Path]:
    """Modules and livepatches compiled against this kernel."""
    return compiled(release)

"""Kernels of the distribution, simulated on several CPU models; modules of their own trees and of kbuild's making."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary.kernel import Kernel
from builder.errors import BespokeError
from builder.image import SimulatedKernel
from builder.image.derive import derive_state
from builder.load.boot import boot
from builder.load.livepatch import unload_all
from tests.conftest import lacks
from tests.guest.conftest import compiled


@cache
def opened(release: str) -> Kernel:
    try:
        return Kernel.open(fetch_kernel(release).image)
    except BespokeError as error:
        lacks(f"no kernel {release}: {error}")


@cache
def booted(release: str, cpu: str) -> SimulatedKernel:
    kernel = opened(release)
    return boot(kernel, derive_state(kernel, cpu))


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


def snapshot(kernel: SimulatedKernel) -> dict[str, str]:
    """A hash of each region, that of stack and heap left out: running code leaves its traces there."""
    return {
        region.name: hashlib.sha256(region.data).hexdigest()
        for region in kernel.memory
        if region.name not in ("stack[0]", "heap[0]")
    }


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The regions that came, went or changed."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))

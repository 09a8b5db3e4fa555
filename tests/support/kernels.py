"""The distribution's kernels, opened and booted (in simulation) once for all tests of a process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

from builder.acquire.packages import fetch_kernel
from builder.binary.kernel import Kernel
from builder.image.derive import derive_state
from builder.image.simulated import SimulatedKernel
from builder.load.boot import boot
from tests.conftest import needed


@cache
def opened(release: str) -> Kernel:
    """A kernel by its release; mark the test `kernel`."""
    with needed(f"no kernel {release}"):
        return Kernel.open(fetch_kernel(release).image)


@cache
def booted(release: str, cpu: str) -> SimulatedKernel:
    """The kernel as simulated on a CPU model; who changes it restores it (`snapshot`, `differences`)."""
    kernel = opened(release)
    return boot(kernel, derive_state(kernel, cpu))


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

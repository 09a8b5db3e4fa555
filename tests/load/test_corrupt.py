"""Damaged modules by the hundred (`tox -e damaged`: 20,000): each loads or gives a clear error, and leaves nothing."""

from __future__ import annotations

import os
import random
import time
import tracemalloc

import pytest

from builder.binary.kernel import read_module_bytes
from builder.errors import BespokeError
from builder.image.simulated import SimulatedKernel
from builder.load.loader import load_module, load_with_dependencies, unload_module
from tests.support.damage import ELF, damaged
from tests.support.kernels import booted

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
COUNT = int(os.environ.get("BESPOKE_DAMAGED", "150"))
NAMES = ("dm_mod", "loop", "snd_pcm", "tun", "zram", "nf_tables", "ext4", "kvm")
MEASURED = 7
"""Of so many damaged modules one is watched for the memory that it takes: watching is slow."""
MOST_MEMORY = 4
"""Times what the intact one takes."""
MOST_SECONDS = 20.0
"""For one module on a busy machine; a hang is what this is to find."""


def peak(simulated: SimulatedKernel, data: bytes) -> int:
    """Bytes that loading a module takes at most, successful or not."""
    tracemalloc.start()
    try:
        unload_module(simulated, load_module(simulated, data).name)
    except BespokeError:
        pass
    finally:
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found


@pytest.fixture
def intact(release: str) -> tuple[SimulatedKernel, list[bytes]]:
    """A kernel with what the modules depend on loaded, and the modules' bytes."""
    simulated = booted(release, "Nehalem")
    found = []
    for name in NAMES:
        path = simulated.kernel.find_module(name)
        if path is None:
            continue
        load_with_dependencies(simulated, path)
        if not simulated.modules[name].users:
            unload_module(simulated, name)
            found.append(read_module_bytes(path))
    return simulated, found


def test_damage_is_an_error_or_harmless(intact: tuple[SimulatedKernel, list[bytes]]) -> None:
    simulated, modules = intact
    before = sorted(region.name for region in simulated.memory), len(simulated.symbols.exported)
    generator = random.Random(2024)
    outcomes = {"loaded": 0, "refused": 0}
    wanted = [peak(simulated, data) for data in modules]
    for i in range(COUNT):
        data = damaged(modules[i % len(modules)], ELF[i // len(modules) % len(ELF)], generator)
        if i % MEASURED == 0:
            assert peak(simulated, data) < MOST_MEMORY * wanted[i % len(modules)], (i, ELF[i // len(modules) % 8])
        started = time.monotonic()
        try:
            loaded = load_module(simulated, data)
            outcomes["loaded"] += 1
            unload_module(simulated, loaded.name)
        except BespokeError as error:
            outcomes["refused"] += 1
            assert str(error).strip()
        assert time.monotonic() - started < MOST_SECONDS
    assert (sorted(region.name for region in simulated.memory), len(simulated.symbols.exported)) == before
    assert outcomes["refused"] > COUNT // 4
    assert outcomes["loaded"] > COUNT // 10

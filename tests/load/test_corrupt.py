"""Damaged modules by the hundred (`tox -e damaged`: 20,000): each loads or gives a clear error, and leaves nothing."""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc

import pytest

from builder.binary.kernel import read_module_bytes
from builder.errors import BespokeError
from builder.image.simulated import SimulatedKernel
from builder.load.loader import load_module, load_with_dependencies, unload_module
from tests.support.kernels import booted

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
COUNT = int(os.environ.get("BESPOKE_DAMAGED", "600"))
NAMES = ("dm_mod", "loop", "snd_pcm", "tun", "zram", "nf_tables", "ext4", "kvm")
KINDS = ("bits", "header", "section header", "cut", "relocation", "symbol", "zeros", "word")
MEASURED = 7
"""Of so many damaged modules one is watched for the memory that it takes: watching is slow."""
MOST_MEMORY = 4
"""Times what the intact one takes."""
MOST_SECONDS = 20.0
"""For one module on a busy machine; a hang is what this is to find."""


def damaged(data: bytes, kind: str, generator: random.Random) -> bytes:
    out = bytearray(data)
    (shoff,), (shnum,) = struct.unpack_from("<Q", out, 40), struct.unpack_from("<H", out, 60)
    rows = [struct.unpack_from("<IIQQQQIIQQ", out, shoff + 64 * i) for i in range(shnum)]
    any_byte = generator.randrange(len(out))
    if kind == "bits":
        for _ in range(generator.randint(1, 60)):
            out[generator.randrange(len(out))] ^= 1 << generator.randrange(8)
    elif kind == "header":
        out[generator.randrange(64)] = generator.randrange(256)
    elif kind == "section header":
        out[shoff + 64 * generator.randrange(shnum) + generator.randrange(64)] = generator.randrange(256)
    elif kind == "cut":
        del out[any_byte:]
    elif kind in ("relocation", "symbol"):
        row = generator.choice([r for r in rows if r[1] == (4 if kind == "relocation" else 2)])
        for _ in range(generator.randint(1, 5)):
            out[row[4] + generator.randrange(row[5])] = generator.randrange(256)
    elif kind == "zeros":
        end = min(len(out), any_byte + generator.randint(1, 5000))
        out[any_byte:end] = bytes(end - any_byte)
    else:
        at = generator.randrange(len(out) - 8)
        out[at : at + 8] = struct.pack("<Q", generator.choice((0, 1 << 62, 1 << 63, (1 << 64) - 1, 0xFFFFFFFF)))
    return bytes(out)


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
        data = damaged(modules[i % len(modules)], KINDS[i // len(modules) % len(KINDS)], generator)
        if i % MEASURED == 0:
            assert peak(simulated, data) < MOST_MEMORY * wanted[i % len(modules)], (i, KINDS[i // len(modules) % 8])
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

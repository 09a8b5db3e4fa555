"""The order of equals is that of the kernel's own sort(), which runs here beside ours."""

from __future__ import annotations

import random
import struct

import pytest

from builder.image.simulated import SimulatedKernel
from builder.load.passes.sorting import heapsort, order

COMPARE = bytes.fromhex("8b072b06c3")
"""mov (%rdi),%eax; sub (%rsi),%eax; ret: by the low half alone"""


@pytest.mark.kernel
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 16, 33, 100])
def test_it_is_the_kernels_own_order(simulated: SimulatedKernel, count: int) -> None:
    generator = random.Random(count)
    for spread in (1, 2, 3, 10, 1000):
        keys = [generator.randrange(spread) for _ in range(count)]
        simulated.execution.heap.clear()
        rows = simulated.execution.heap.put(
            b"".join(struct.pack("<II", key, i) for i, key in enumerate(keys)) + bytes(8)
        )
        simulated.call("sort", rows, count, 8, simulated.execution.heap.put(COMPARE), 0)
        theirs = [i for _, i in struct.iter_unpack("<II", simulated.memory.read(rows, 8 * count))]
        assert order(keys, simulated.facts.sorts_pairs) == theirs or len(set(keys)) == len(keys)
        assert heapsort(count, lambda a, b, keys=keys: keys[a] - keys[b], simulated.facts.sorts_pairs) == theirs  # type: ignore[misc]


@pytest.mark.parametrize("pairs", [False, True])
def test_it_sorts(pairs: bool) -> None:
    generator = random.Random(1)
    for count in range(40):
        keys = [generator.randrange(10) for _ in range(count)]
        found = heapsort(count, lambda a, b, keys=keys: keys[a] - keys[b], pairs)  # type: ignore[misc]
        assert sorted(found) == list(range(count))
        assert [keys[i] for i in found] == sorted(keys)

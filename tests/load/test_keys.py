"""Static keys and static calls that change at run time take every site with them, and back."""

from __future__ import annotations

import pytest

from builder.image.simulated import SimulatedKernel
from builder.load.keys import set_static_key, update_static_call
from builder.load.loader import load_with_dependencies
from tests.support.kernels import differences, snapshot

pytestmark = pytest.mark.kernel


def test_a_key_turns_its_branches_in_vmlinux_and_modules(simulated: SimulatedKernel) -> None:
    path = simulated.kernel.find_module("nf_tables")
    assert path is not None
    load_with_dependencies(simulated, path)
    names = ("memcg_kmem_enabled_key", "memcg_kmem_online_key")
    key = simulated.symbols.find_function(next(name for name in names if simulated.symbols.address(name) is not None))
    before = snapshot(simulated)
    assert simulated.keys.count(key) == 0
    turned = set_static_key(simulated, key, 1)
    assert turned > 5
    assert simulated.keys.count(key) == 1
    assert "vmlinux[1]" in differences(before, snapshot(simulated))
    assert set_static_key(simulated, key, 1) == 0
    assert set_static_key(simulated, key, 0) == turned
    assert differences(before, snapshot(simulated)) == []


def test_a_call_goes_elsewhere_and_back(simulated: SimulatedKernel) -> None:
    key, trampoline = (simulated.symbols.find_function(f"__SC{letter}__cond_resched") for letter in "KT")
    old, new = simulated.keys.target(key), simulated.symbols.find_function("gcd")
    before = snapshot(simulated)
    moved = update_static_call(simulated, key, new, trampoline)
    assert moved > 100
    assert simulated.call(trampoline, 12, 18).value == 6
    assert update_static_call(simulated, key, old, trampoline) == moved
    assert [name for name in differences(before, snapshot(simulated)) if name == "vmlinux[1]"] == []

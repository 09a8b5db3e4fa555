"""The boot state that the kernel's own early code computes, executed on what a CPU model shows."""

from __future__ import annotations

import re

import pytest

from builder.binary.kernel import Kernel
from builder.errors import UsageError
from builder.image.boot import CALL_DEPTH, IBT, RETHUNK, RETPOLINE, RETPOLINE_LFENCE
from builder.image.capture import GuestMemory, capture_state, cpuid_leaves
from builder.image.cpu_flags import flag_names, with_flags
from builder.image.derive import cpu_models, derive_state, with_cpus
from builder.image.guest import Guest, MachineConfig
from builder.preflight.fidelity import state_differences
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel


@pytest.fixture
def kernel(release: str) -> Kernel:
    return opened(release)


@pytest.mark.parametrize(
    ("cpu", "rethunk", "thunk"),
    [
        ("max", False, "__x86_return_thunk"),
        ("qemu64", False, "__x86_return_thunk"),
        ("Nehalem", True, "its_return_thunk"),
        ("Skylake-Server", True, "its_return_thunk"),
        ("EPYC", True, "srso_return_thunk"),
        ("EPYC-Milan", True, "srso_alias_return_thunk"),
    ],
)
def test_mitigations_are_those_of_the_model(kernel: Kernel, cpu: str, rethunk: bool, thunk: str) -> None:
    state = derive_state(kernel, cpu)
    assert state.has(RETPOLINE)
    assert state.has(RETHUNK) == rethunk
    nearest = kernel.nearest(state.return_thunk)
    assert nearest is not None
    assert nearest.address == state.return_thunk
    assert thunk in {symbol.name for symbol in kernel.symbols_in(state.return_thunk, state.return_thunk + 1)}


def test_every_known_model_can_be_derived(kernel: Kernel) -> None:
    assert len(cpu_models()) >= 45
    states = {cpu: derive_state(kernel, cpu) for cpu in cpu_models()}
    # What tells some variants apart (IBRS, TSX) is nothing that emulation has.
    assert len({state.capabilities for state in states.values()}) >= 25
    assert all(len(state.pv_ops) > 5 for state in states.values())


def test_several_cpus_keep_their_lock_prefixes(kernel: Kernel) -> None:
    one, two = derive_state(kernel, "max"), derive_state(kernel, "max", 2)
    assert (one.uniproc, two.uniproc, two.possible_cpus) == (True, False, 2)
    leaves = with_cpus(cpu_models()["max"], 4)
    assert leaves[1, 0][1] >> 16 & 0xFF == 4
    assert leaves[0x80000008, 0][2] & 0xFF == 3


def test_an_unknown_model_is_named_with_those_known(kernel: Kernel) -> None:
    with pytest.raises(UsageError, match=r"Cyrix.*known are.*Nehalem.*qemu64"):
        derive_state(kernel, "Cyrix")


def test_flags_can_be_added_and_taken_away(kernel: Kernel) -> None:
    smap, plain = flag_names(kernel)["smap"], derive_state(kernel, "Skylake-Server")
    changed = derive_state(kernel, "Skylake-Server,+ibt,-smap")
    assert (plain.has(IBT), plain.has(smap)) == (False, True)
    assert (changed.has(IBT), changed.has(smap)) == (True, False)


@pytest.mark.parametrize("cpu", ["max,+bogus", "max,ibt", "max,"])
def test_an_unknown_flag_is_named(kernel: Kernel, cpu: str) -> None:
    with pytest.raises(UsageError, match=f"'{re.escape(cpu.partition(',')[2])}'.*{re.escape(kernel.release)}"):
        derive_state(kernel, cpu)


def test_a_leaf_of_a_flag_is_one_that_the_model_shows(kernel: Kernel) -> None:
    leaves = with_flags(kernel, {(0, 0): (1, 2, 3, 4)}, ["+avx_vnni"])
    assert leaves == {(0, 0): (7, 2, 3, 4), (7, 0): (1, 0, 0, 0), (7, 1): (1 << 4, 0, 0, 0)}


@pytest.mark.parametrize(
    ("cmdline", "retpoline", "lfence", "rethunk"),
    [
        ("", True, False, True),
        ("mitigations=off", False, False, False),
        ("quiet spectre_v2=retpoline,lfence retbleed=off", True, True, False),
    ],
)
def test_the_command_line_is_obeyed(kernel: Kernel, cmdline: str, retpoline: bool, lfence: bool, rethunk: bool) -> None:
    state = derive_state(kernel, "Skylake-Client", cmdline=cmdline)
    assert (state.has(RETPOLINE), state.has(RETPOLINE_LFENCE)) == (retpoline, lfence)
    assert state.has(RETHUNK) == rethunk


def test_calls_are_counted_where_it_is_asked_for(kernel: Kernel) -> None:
    state = derive_state(kernel, "Skylake-Client", cmdline="retbleed=stuff")
    assert state.has(CALL_DEPTH) == kernel.features.call_thunks


def test_a_command_line_that_does_not_fit_is_refused(kernel: Kernel) -> None:
    with pytest.raises(UsageError, match="takes 2047"):
        derive_state(kernel, cmdline="x" * 2048)


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.long_for(release="6.12", cpu="max")
@pytest.mark.long_for(release="6.12", cpu="Haswell")
@pytest.mark.long_for(release="6.1", cpu="EPYC-Rome")
@pytest.mark.long_for(release="6.1", cpu="Icelake-Server")
@pytest.mark.parametrize(("cpu", "smp"), [("max", 2), ("Haswell", 1), ("EPYC-Rome", 2), ("Icelake-Server", 1)])
def test_it_is_what_a_guest_decides(kernel: Kernel, cpu: str, smp: int) -> None:
    with Guest(kernel, MachineConfig(cpu=cpu, smp=smp, cmdline="no_timer_check")) as guest:
        memory = GuestMemory(guest)
        state = capture_state(guest, kernel, memory)
        leaves = cpuid_leaves(guest)
    assert state_differences(kernel, derive_state(kernel, cpu, smp), state) == []
    from_leaves = derive_state(kernel, cpu, 1, leaves)
    assert from_leaves.capabilities == state.capabilities

"""The kernel's own patching code, executed on its own tables, writes what our passes write."""

from __future__ import annotations

import pytest

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.image.derive import derive_state
from builder.image.execute import Machine
from builder.image.simulated import SimulatedKernel
from builder.load.boot import BOUNDS, _install
from builder.load.passes import PASSES, Context, Table

STEPS = {
    "apply_paravirt": ("apply_paravirt", ".parainstructions"),
    "apply_retpolines": ("apply_retpolines", ".retpoline_sites"),
    "apply_returns": ("apply_returns", ".return_sites"),
    "apply_alternatives": ("apply_alternatives", ".altinstructions"),
    "apply_seal_endbr": ("apply_seal_endbr", ".ibt_endbr_seal"),
}
"""Pass: the kernel's function for it, and the table."""
CPUS = ("max", "Nehalem", "EPYC-Milan", "Skylake-Server")


def bounds(simulated: SimulatedKernel, table: str) -> tuple[Address, Address] | None:
    start, stop = (simulated.symbols.address(name) for name in BOUNDS[table])
    return (start, stop) if start is not None and stop is not None and start < stop else None


def with_kernels_code(kernel: Kernel, cpu: str) -> SimulatedKernel:
    simulated = SimulatedKernel(kernel, derive_state(kernel, cpu))
    _install(simulated)

    def poke(machine: Machine) -> int:
        machine.write(machine.pointer(0), machine.read(machine.pointer(1), machine.argument(2)))
        return 0

    simulated.execution.stub("text_poke_early", poke)
    if simulated.symbols.address("static_call_force_reinit") is not None:
        simulated.execution.stub("static_call_force_reinit", lambda _: 0)  # warns where no early_initcall has run
    for function, table in STEPS.values():
        found, address = bounds(simulated, table), simulated.symbols.address(function)
        if found is not None and address is not None:
            simulated.call(address, *found, budget=2_000_000_000)
    return simulated


def with_our_passes(kernel: Kernel, cpu: str) -> SimulatedKernel:
    simulated = SimulatedKernel(kernel, derive_state(kernel, cpu))
    _install(simulated)
    tables = {
        table: Table(found[0], found[1] - found[0])
        for _, table in STEPS.values()
        if (found := bounds(simulated, table)) is not None
    }
    context = Context(simulated, tables, simulated.facts.text)
    for row in PASSES:
        if row.name in STEPS and row.applies(kernel.features):
            context.step = row.name
            row.apply(context)
    assert not context.warnings
    return simulated


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.long_for(release="6.12", cpu="max")
@pytest.mark.long_for(release="6.1", cpu="Nehalem")
@pytest.mark.long_for(release="6.1", cpu="EPYC-Milan")
@pytest.mark.long_for(release="6.12", cpu="Skylake-Server")
@pytest.mark.parametrize("cpu", CPUS)
def test_vmlinux_is_patched_as_it_patches_itself(kernel: Kernel, cpu: str) -> None:
    theirs, ours = with_kernels_code(kernel, cpu), with_our_passes(kernel, cpu)
    before = kernel.read(kernel.text_range()[0], 1 << 20)
    wrong = []
    for section in (".text", ".init.text", ".altinstr_aux"):
        found = kernel.sections[section]
        a, b = (k.memory.read(found.address, found.size) for k in (ours, theirs))
        if a != b:
            at = next(i for i in range(len(a)) if a[i] != b[i])
            place = ours.symbols.describe(found.address + at)
            wrong.append(f"{section} {place}: {a[at : at + 16].hex()}, not {b[at : at + 16].hex()}")
    assert wrong == []
    assert ours.memory.read(kernel.text_range()[0], 1 << 20) != before

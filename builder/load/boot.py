"""Bring a simulated kernel to life: its image patched as early boot patches it."""

from __future__ import annotations

import struct

from builder.binary.kernel import Kernel
from builder.image.boot import BootState
from builder.image.memory import U64
from builder.image.simulated import SimulatedKernel
from builder.load.passes import PASSES, Context, Table, static_call

BOUNDS = {
    ".parainstructions": ("__parainstructions", "__parainstructions_end"),
    ".retpoline_sites": ("__retpoline_sites", "__retpoline_sites_end"),
    ".return_sites": ("__return_sites", "__return_sites_end"),
    ".altinstructions": ("__alt_instructions", "__alt_instructions_end"),
    ".call_sites": ("__call_sites", "__call_sites_end"),
    ".ibt_endbr_seal": ("__ibt_endbr_seal", "__ibt_endbr_seal_end"),
    ".smp_locks": ("__smp_locks", "__smp_locks_end"),
    "__mcount_loc": ("__start_mcount_loc", "__stop_mcount_loc"),
    "__jump_table": ("__start___jump_table", "__stop___jump_table"),
    ".static_call_sites": ("__start_static_call_sites", "__stop_static_call_sites"),
}
"""The symbols around each table of vmlinux (arch/x86/kernel/vmlinux.lds.S, include/asm-generic/vmlinux.lds.h)."""


def boot(kernel: Kernel, state: BootState) -> SimulatedKernel:
    """The kernel in memory with this state, its own sites patched by the passes that patch modules."""
    simulated = SimulatedKernel(kernel, state)
    tables = {}
    for name, (start, stop) in BOUNDS.items():
        first, last = simulated.symbols.address(start), simulated.symbols.address(stop)
        if first is not None and last is not None and last > first:
            tables[name] = Table(first, last - first)
    # The tables stay as built: the passes sort them as boot did.
    kept = [(table.address, simulated.memory.read(table.address, table.size)) for table in tables.values()]
    for address, data in (*state.data, *kept):
        simulated.memory.overlay(address, data)
    _install(simulated)
    context = Context(simulated, tables, simulated.facts.text)
    for row in PASSES:
        if row.applies(kernel.features) and row.name != "unwind_module_init":  # sorted when it was built
            context.step = row.name
            row.apply(context)
    context.step = "static_call"
    _follow_calls(context)
    simulated.ftrace = context.traced
    return simulated


def _follow_calls(context: Context) -> None:
    """Trampolines of static calls that no longer go where they were built to go."""
    simulated = context.kernel
    start, stop = (simulated.symbols.address(f"__static_call_text_{side}") for side in ("start", "end"))
    if start is None or stop is None:
        return
    for symbol in simulated.kernel.symbols_in(start, stop):
        key = simulated.symbols.address(symbol.name.replace("__SCT__", "__SCK__", 1))
        if symbol.name.startswith("__SCT__") and key is not None:
            target = simulated.keys.target(key)
            if target != int.from_bytes(simulated.kernel.read(key, 8), "little"):
                static_call.retarget(context, symbol.address, target)


def _install(simulated: SimulatedKernel) -> None:
    """Put the state where the kernel's own code would find it."""
    kernel, state, memory = simulated.kernel, simulated.state, simulated.memory
    capabilities = kernel.layout("cpuinfo_x86").offset_of("x86_capability")
    memory.write(
        kernel.symbol("boot_cpu_data").address + capabilities,
        struct.pack(f"<{len(state.capabilities)}I", *state.capabilities),
    )
    thunk, operations = simulated.symbols.address("x86_return_thunk"), simulated.symbols.address("pv_ops")
    if thunk is not None:
        memory.write_u64(thunk, state.return_thunk)
    if operations is not None and state.pv_ops:
        memory.write(operations, struct.pack(f"<{len(state.pv_ops)}Q", *state.pv_ops))
    for key, count in state.static_keys.items():
        memory.write_u32(key, count)
    for key, target in state.static_calls.items():
        memory.write_u64(key, target & U64)

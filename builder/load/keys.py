"""Static keys and static calls that change while the kernel runs: every site follows, in vmlinux and modules.

static_key_enable and __static_call_update (kernel/jump_label.c, kernel/static_call_inline.c, v6.1 to v6.12).
"""

from __future__ import annotations

from collections.abc import Iterator

from builder.binary import Address
from builder.image.simulated import SimulatedKernel
from builder.load.boot import BOUNDS
from builder.load.module import loaded_module
from builder.load.passes import Context, Table, jump_label, static_call


def set_static_key(kernel: SimulatedKernel, key: Address, count: int) -> int:
    """Give a static key a count and turn its branches; the number of sites rewritten. 0 is off."""
    kernel.memory.write_u32(key, count)
    kernel.keys.changed.add(key)
    done = 0
    for context, table in _tables(kernel, "__jump_table", "jump_label"):
        content = context.content(table)
        for at, (code, target, site) in zip(
            range(table.address, table.address + table.size, 16), jump_label.ENTRY.iter_unpack(content), strict=True
        ):
            if (at + 8 + site) & ~3 == key and kernel.memory.find(at + code) is not None:
                taken = (count != 0) != bool((at + 8 + site) & jump_label.BRANCH)
                jump_label.patch(context, at + code, at + 4 + target, taken)
        done += context.counts.get("jump_label", 0)
    return done


def update_static_call(
    kernel: SimulatedKernel, key: Address, target: Address, trampoline: Address | None = None
) -> int:
    """Send a static call elsewhere, its trampoline too; the number of sites rewritten. Target 0: nowhere."""
    kernel.memory.write_u64(key, target)
    kernel.keys.changed.add(key)
    done = 0
    if trampoline is not None:
        static_call.retarget(Context(kernel, {}, kernel.facts.text, step="static_call"), trampoline, target)
    for context, table in _tables(kernel, ".static_call_sites", "static_call"):
        content = context.content(table)
        stubs = static_call.stubs_of(context)
        for at, (code, site) in zip(
            range(table.address, table.address + table.size, 8), static_call.ENTRY.iter_unpack(content), strict=True
        ):
            if (at + 4 + site) & ~3 == key and kernel.memory.find(at + code) is not None:
                tail = bool((at + 4 + site) & static_call.TAIL)
                static_call.transform(context, at + code, target, tail, stubs)
        done += context.counts.get("static_call", 0)
    return done


def _tables(kernel: SimulatedKernel, name: str, step: str) -> Iterator[tuple[Context, Table]]:
    """The table of that name in vmlinux and in each module."""
    start, stop = (kernel.symbols.address(symbol) for symbol in BOUNDS[name])
    if start is not None and stop is not None and start < stop:
        yield Context(kernel, {}, kernel.facts.text, step=step), Table(start, stop - start)
    for module in (loaded_module(kernel, name) for name in kernel.modules):
        section = module.section(name)
        if section is not None and section.size:
            yield Context(kernel, {}, kernel.facts.text, module, step=step), Table(section.address, section.size)

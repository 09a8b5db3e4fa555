"""ftrace_module_init: `call __fentry__` becomes a NOP (kernel/trace/ftrace.c, arch/x86/kernel/ftrace.c, v6.1 to v6.12).

`__mcount_loc`: addresses of 8 bytes, sorted in place; zeros are skipped.
"""

from __future__ import annotations

from array import array

from builder.binary import Address
from builder.load.passes.context import CALL, NOP5, Context, branch

SECTION = "__mcount_loc"


def apply(context: Context) -> None:
    table = context.table(SECTION)
    if table is None:
        return
    places = array("Q", context.memory.read(table.address, table.size // 8 * 8))
    ordered = array("Q", sorted(places))
    if ordered != places:
        context.poke(table.address, ordered.tobytes())
    fentry = context.kernel.kernel.symbol("__fentry__").address
    moved_zero = context.kernel.kernel.offset  # sorttable's zeros are relocated like all others
    done = []
    for address in map(Address, ordered):
        if address in (0, moved_zero):
            continue
        if context.memory.read(address, 5) != branch(CALL, address, fentry):
            context.warn(address, "no call of __fentry__")
            context.breaks_ftrace = True
            break  # ftrace_bug(): the rest is left alone
        context.poke(address, NOP5)
        done.append(address)
    context.traced = tuple(done)

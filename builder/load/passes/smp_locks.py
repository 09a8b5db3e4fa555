"""alternatives_smp_module_add: lock prefixes on one CPU (arch/x86/kernel/alternative.c, v6.1 to v6.12).

`.smp_locks`: s32, relative to itself. LOCK becomes the DS prefix that means
nothing; only inside `.text` (v6.1), or all of the module's text (v6.4 and later).
"""

from __future__ import annotations

from builder.load.passes.context import Context

LOCK, DS = b"\xf0", b"\x3e"


def apply(context: Context) -> None:
    table = context.table(".smp_locks")
    if table is None or not context.kernel.state.uniproc:
        return
    start, end = context.text
    for address in context.relative_sites(table):
        if start <= address < end and context.memory.read(address, 1) == LOCK:
            context.poke(address, DS)

"""unwind_module_init: both ORC tables in order of address (arch/x86/kernel/unwind_orc.c, v6.1 to v6.12).

`.orc_unwind_ip`: s32, relative to itself; `.orc_unwind`: 6 bytes each
(asm/orc_types.h). At one address the entry that ends a section comes first.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from operator import le, sub

from builder.load.passes.context import Context

ENTRY = 6


def apply(context: Context) -> None:
    places, entries = context.table(".orc_unwind_ip"), context.table(".orc_unwind")
    if places is None or entries is None:
        return
    count = min(places.size // 4, entries.size // ENTRY)
    if places.size % 4 or entries.size % ENTRY or places.size // 4 != entries.size // ENTRY:
        context.warn(places.address, "ORC tables that do not fit together")
    start = places.address
    addresses = context.relative_sites(places)[:count]
    rows = context.memory.read(entries.address, count * ENTRY)
    weak = context.kernel.facts.orc_ends_section
    if all(a < b for a, b in pairwise(addresses)):
        return
    # The comparison never says equal, so entries alike in both keep some order; their bytes do not tell.
    keys = [2 * address + (not weak(rows[ENTRY * i + 4], rows[ENTRY * i + 5])) for i, address in enumerate(addresses)]
    if all(map(le, keys, keys[1:])):
        return
    order = sorted(range(count), key=keys.__getitem__)
    moved = map(sub, map(addresses.__getitem__, order), range(start, start + 4 * count, 4))
    context.poke(start, array("i", moved).tobytes())
    context.poke(entries.address, b"".join([rows[ENTRY * i : ENTRY * i + ENTRY] for i in order]))

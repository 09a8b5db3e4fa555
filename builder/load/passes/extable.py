"""sort_extable: the exception table in order of address (lib/extable.c, v6.1 to v6.12).

`struct exception_table_entry` (arch/x86/include/asm/extable.h, v5.16) is three
s32: the instruction and its fixup relative to themselves, and data.
"""

from __future__ import annotations

from array import array

from builder.load.passes.context import Context
from builder.load.passes.sorting import order

ENTRY = 12


def apply(context: Context) -> None:
    table = context.table("__ex_table")
    if table is None:
        return
    count = table.size // ENTRY
    words = array("i", context.memory.read(table.address, count * ENTRY))
    instructions = [table.address + ENTRY * i + words[3 * i] for i in range(count)]
    sorted_to = order(instructions, context.kernel.facts.sorts_pairs)
    if sorted_to == list(range(count)):
        return
    out = array("i", words)
    for new, old in enumerate(sorted_to):
        moved = ENTRY * (old - new)
        # swap_ex_entry_fixup: the data moves as it is
        out[3 * new : 3 * new + 3] = array(
            "i", (words[3 * old] + moved, words[3 * old + 1] + moved, words[3 * old + 2])
        )
    context.poke(table.address, out.tobytes())

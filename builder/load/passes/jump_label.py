"""jump_label_add_module: static branches follow their keys (v6.1 to v6.12: kernel/jump_label.c and the same of x86).

`struct jump_entry`: s32 code, s32 target, s64 key, each relative to itself;
bit 0 of the key: the branch is taken when the key is off; bit 1 is set here
for code in `.init`. The table is sorted by key, then code.
"""

from __future__ import annotations

import struct

from builder.binary import Address
from builder.load.passes.context import JMP8, JMP32, NOP5, NOPS, Context, branch
from builder.load.passes.decode import length
from builder.load.passes.sorting import order

ENTRY = struct.Struct("<iiq")
BRANCH, INIT = 1, 2


def apply(context: Context) -> None:
    table = context.table("__jump_table")
    if table is None:
        return
    count = table.size // ENTRY.size
    start = table.address
    content = context.memory.read(start, count * ENTRY.size)
    rows = []
    for at, (code, target, key) in zip(
        range(start, start + count * ENTRY.size, ENTRY.size), ENTRY.iter_unpack(content), strict=True
    ):
        rows.append((at + 8 + (key & ~3), at + code, at + 4 + target, key & BRANCH))
    out = bytearray()
    at = start
    in_init = context.module.in_init if context.module is not None else context.kernel.facts.in_init
    for number in order([row[:2] for row in rows], context.kernel.facts.sorts_pairs):
        key, code, target, flag = rows[number]
        out += ENTRY.pack(code - at, target - at - 4, (key - at - 8) | flag | (INIT if in_init(code) else 0))
        at += ENTRY.size
    if bytes(out) != content:
        context.poke(start, bytes(out))
    counts: dict[int, bool] = {}
    for key, code, target, flag in rows:
        enabled = counts.get(key)
        if enabled is None:
            enabled = counts[key] = context.kernel.keys.count(key) != 0
        patch(context, code, target, enabled != bool(flag))


def patch(context: Context, code: Address, target: Address, taken: bool) -> None:
    """One branch as jump (`taken`) or NOP, of the length that it has."""
    found = context.memory.read(code, 5) if context.memory.find(code + 4) else b""
    if found[:1] == b"\xe9" or found == NOP5:
        nop, jump = NOP5, branch(JMP32, code, target)
    elif found[:1] == b"\xeb" or found[:2] == NOPS[2]:
        nop, jump = NOPS[2], bytes((JMP8, (target - code - 2) & 0xFF))
    else:
        context.warn(code, f"unexpected op {found.hex(' ')} of {length(found)} bytes for a jump label")
        return
    now = found[: len(nop)]
    if now not in (nop, jump):
        context.warn(code, f"unexpected op {now.hex(' ')} for a jump label")
    elif now != (jump if taken else nop):
        context.poke(code, jump if taken else nop)

"""static_call_add_module: static calls go where their keys say (kernel/static_call_inline.c,
arch/x86/kernel/static_call.c, v6.1 to v7.3).

`struct static_call_site`: s32 address, s32 key, each relative to itself; bit 0
of the key: a tail call; bit 1 is set here for code in `.init`. A key in the
kernel's own text is the trampoline of one that is not exported: it is looked
up in `__start_static_call_tramp_key`. The table is sorted by key alone, so the
order of sites is that of the kernel's heapsort.
"""

from __future__ import annotations

import struct

from builder.binary import Address
from builder.image.boot import RETHUNK
from builder.load.passes.callthunks import Stubs
from builder.load.passes.context import CALL, JMP32, NOP5, RET, Context, branch
from builder.load.passes.returns import return_at
from builder.load.passes.sorting import order

ENTRY = struct.Struct("<ii")
TAIL, INIT = 1, 2


def apply(context: Context) -> None:
    table = context.table(".static_call_sites")
    if table is None:
        return
    count = table.size // ENTRY.size
    start = table.address
    content = context.memory.read(start, count * ENTRY.size)
    rows = []
    text = context.kernel.facts.text
    for at, (code, key) in zip(
        range(start, start + count * ENTRY.size, ENTRY.size), ENTRY.iter_unpack(content), strict=True
    ):
        found = at + 4 + key
        flags, found = found & 3, found & ~3
        if context.module is not None and text[0] <= found < text[1]:
            known = context.kernel.facts.trampoline_keys.get(found)
            if known is None:
                context.warn(at + code, "Failed to fixup __raw_static_call() usage")
                return
            found = known
        rows.append((found, at + code, flags))
    out = bytearray()
    at = start
    in_init = context.module.in_init if context.module is not None else context.kernel.facts.in_init
    ordered = [rows[i] for i in order([row[0] for row in rows], context.kernel.facts.sorts_pairs)]
    for key, code, flags in ordered:
        flags |= INIT if in_init(code) else 0
        out += ENTRY.pack(code - at, (key | flags) - at - 4)
        at += ENTRY.size
    if bytes(out) != content:
        context.poke(start, bytes(out))
    # Those of vmlinux are set up before depths are tracked (static_call_init in setup_arch), and stay.
    stubs = stubs_of(context) if context.module is not None else None
    for key, code, flags in ordered:
        if stubs is not None and context.module is not None and context.module.holds(key) and not flags & TAIL:
            first = context.memory.pointer(key)
            if first:  # a module's init may turn its own key later; what it was built with has its stub by then
                stubs.before(first)
        transform(context, code, context.kernel.keys.target(key), bool(flags & TAIL), stubs)


def stubs_of(context: Context) -> Stubs | None:
    """Where calls are to be sent through, None where their depth is not tracked."""
    return Stubs(context) if context.kernel.state.counts_calls else None


def transform(context: Context, site: Address, target: Address, tail: bool, stubs: Stubs | None) -> None:
    """arch_static_call_transform() of a site, with `stubs` where the depth of calls is tracked."""
    now = context.memory.read(site, 6)
    conditional = now[0] == 0x0F and now[1] & 0xF0 == 0x80
    inlined = context.kernel.facts.inlined_targets
    fits = now[0] in (JMP32, RET) or conditional if tail else now[0] == CALL or now[:5] in (NOP5, *inlined.values())
    if not fits:
        context.warn(site, f"unexpected static_call insn opcode {now[0]:#x}")
        return
    if tail and conditional:
        new = now[:1] + branch(now[1], site + 1, target or _null_return(context))
    elif tail:
        new = branch(JMP32, site, target) if target else return_at(context, site)
    elif not target:
        new = NOP5
    else:
        if stubs is not None:
            target = stubs.before(target)  # callthunks_translate_call_dest()
        new = inlined.get(target) or branch(CALL, site, target)
    if now[: len(new)] != new:
        context.poke(site, new)


def retarget(context: Context, trampoline: Address, target: Address) -> None:
    """What __static_call_update() does to a trampoline: a jump, or a return where there is nothing to call."""
    context.poke(trampoline, branch(JMP32, trampoline, target) if target else return_at(context, trampoline))


def follow_keys(context: Context) -> None:
    """Retarget the trampolines that a module defines whose keys no longer hold what they were built with."""
    if context.module is None:
        return
    symbols = context.kernel.symbols.of_module[context.module.name]
    for name, (trampoline, *_) in symbols.items():
        key = symbols.get(name.replace("__SCT__", "__SCK__", 1)) if name.startswith("__SCT__") else None
        if key is not None and context.module.holds(key[0]) and context.module.holds(trampoline):
            target = context.kernel.keys.target(key[0])
            if target != context.memory.u64(key[0]):
                retarget(context, trampoline, target)


def _null_return(context: Context) -> Address:
    """Where a conditional tail call of nothing goes."""
    kernel = context.kernel
    if not kernel.state.has(RETHUNK):
        return kernel.kernel.symbol("__static_call_return").address
    # v6.1 names the generic thunk, later ones that of the mitigation
    if kernel.kernel.features.module_memory:
        return kernel.state.return_thunk
    return kernel.kernel.symbol("__x86_return_thunk").address

"""apply_returns: `jmp __x86_return_thunk` (arch/x86/kernel/{alternative,static_call}.c, v6.1 to v6.12).

Becomes `ret; int3...` where the CPU needs no return thunk, else a jump to the
one that the mitigation chose. `.return_sites`: s32, relative to itself. A site
that is a static-call trampoline is treated as such.
"""

from __future__ import annotations

from builder.binary import Address
from builder.image.boot import RETHUNK
from builder.load.passes.context import INT3, JMP32, RET, Context, branch, relative

TRAMPOLINE = b"\x0f\xb9\xcc"
"""ud1 %esp, %ecx: behind each static-call trampoline"""
PLAIN = bytes((RET, INT3, INT3, INT3, INT3))


def return_at(context: Context, address: Address) -> bytes:
    """The five bytes of a return at `address`: cpu_wants_rethunk_at()."""
    state = context.kernel.state
    if not state.has(RETHUNK):
        return PLAIN
    if state.return_thunk == context.kernel.symbols.address("its_return_thunk") and address & 0x20:
        return PLAIN
    return branch(JMP32, address, state.return_thunk)


def apply(context: Context) -> None:
    table = context.table(".return_sites")
    if table is None:
        return
    thunk = context.kernel.kernel.symbol("__x86_return_thunk").address
    find = context.memory.find
    rethunk = context.kernel.state.has(RETHUNK)
    for address in context.relative_sites(table):
        region = find(address)
        if region is None:
            context.warn(address, "a return site outside all memory")
            continue
        at = address - region.base
        code = bytes(region.data[at : at + 8])
        target = address + 5 + relative(code) if code[0] == JMP32 and len(code) >= 5 else None
        if code[5:8] == TRAMPOLINE:
            # __static_call_fixup(): a null trampoline, written before it was known what a return is
            if code[0] == RET or target == thunk:
                context.poke(address, return_at(context, address))
        elif target != thunk:
            context.warn(address, "missing return thunk")
        else:
            context.poke(address, return_at(context, address) if rethunk else PLAIN)

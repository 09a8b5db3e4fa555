"""apply_retpolines: calls of indirect-branch thunks (arch/x86/kernel/alternative.c, v6.1 to v6.12).

With plain retpolines they stay. Without, they become the indirect branch
itself, behind an LFENCE where that is the mitigation; on CPUs with the ITS
defect a branch in the lower half of a cache line goes through a thunk of its
own. `.retpoline_sites`: s32, relative to itself.
"""

from __future__ import annotations

import struct
from functools import cache

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.image.boot import CALL_DEPTH, RETPOLINE, RETPOLINE_LFENCE, BootState
from builder.image.execute import Machine
from builder.image.memory import PAGE, Region
from builder.image.simulated import SimulatedKernel
from builder.load.passes.context import CALL, CS, INT3, JMP32, NOP1, Context, branch, fill, opcode_at, relative
from builder.load.passes.its import allocate_thunk, wants_thunk

THUNK_SIZE = 32
"""RETPOLINE_THUNK_SIZE (asm/nospec-branch.h)"""
LFENCE = b"\x0f\xae\xe8"


def apply(context: Context) -> None:
    table = context.table(".retpoline_sites")
    if table is None:
        return
    state, kernel = context.kernel.state, context.kernel
    retpoline = state.has(RETPOLINE) and not state.has(RETPOLINE_LFENCE)
    tracked = retpoline and kernel.kernel.features.call_thunks and state.has(CALL_DEPTH)
    if retpoline and not tracked:
        return
    thunks = kernel.kernel.symbol("__x86_indirect_thunk_array").address
    for address in context.relative_sites(table):
        code = context.memory.read(address, 6)
        opcode, at = opcode_at(code)
        conditional = opcode == 0x0F and code[at + 1] & 0xF0 == 0x80
        if opcode not in (CALL, JMP32) and not conditional:
            context.warn(address, "no branch")
            continue
        length = at + (6 if conditional else 5)
        target = address + length + relative(context.memory.read(address, length), length - 4)
        register, rest = divmod(target - thunks, THUNK_SIZE)
        if register & ~0xF or rest or register == 4:
            context.warn(address, "no call of an indirect thunk")
            continue
        if tracked:
            kind = "jump" if opcode != CALL else "call"
            base = kernel.kernel.symbol(f"__x86_indirect_{kind}_thunk_array").address
            context.poke(address, _trampoline(code, address, length, conditional, base + THUNK_SIZE * register))
            continue
        context.poke(address, _direct(context, code, address, length, conditional, register))


def _direct(context: Context, code: bytes, address: Address, length: int, conditional: bool, register: int) -> bytes:
    """patch_retpoline(): the branch through the register itself."""
    state, kernel = context.kernel.state, context.kernel
    out = bytearray()
    opcode, at = opcode_at(code)
    if conditional:
        out += bytes((0x70 + (code[at + 1] & 0xF ^ 1), length - 2))
        opcode = JMP32
    if state.has(RETPOLINE_LFENCE):
        out += LFENCE
    if wants_thunk(context, address + len(out), register):
        return _trampoline(code, address, length, conditional, allocate_thunk(context, register))
    through = (b"\x41" if register >= 8 else b"") + bytes((0xFF, (0xD0 if opcode == CALL else 0xE0) + (register & 7)))
    excess = length - len(out) - len(through)
    if excess < 0:
        return code[:length]  # does not fit: the kernel leaves it as it is
    if fills_branches(kernel.kernel):
        # emit_indirect(): up to three prefixes before a call, and nothing but INT3 behind a jump
        out += bytes((CS,)) * excess if opcode == CALL and excess <= 3 else b""
        out += through + (bytes((INT3,)) * excess if opcode == JMP32 else b"")
    else:
        out += through
    if opcode == JMP32 and len(out) < length:
        out.append(INT3)
    rest = length - len(out)
    return bytes(out) + (fill(rest, context.kernel.facts.longest_nop) if rest > 1 else bytes((NOP1,)) * rest)


def _trampoline(code: bytes, address: Address, length: int, conditional: bool, target: Address) -> bytes:
    """__emit_trampoline(): the same branch to another thunk."""
    if conditional:
        return code[:1] + branch(code[1], address + 1, target)
    prefix = bytes((CS,)) if length == 6 else b""
    return prefix + branch(opcode_at(code)[0], address + len(prefix), target)


@cache
def fills_branches(kernel: Kernel) -> bool:
    """Whether prefixes fill the room of a call through a register (emit_indirect, v6.18), instead of a NOP behind it.

    It leaves no trace but what the kernel's own apply_retpolines makes of a site, so that is run on one.
    """
    asked = SimulatedKernel(kernel, BootState("", (), Address(0)))
    site = asked.area.allocate(PAGE)
    target = asked.kernel.symbol("__x86_indirect_thunk_array").address + 11 * THUNK_SIZE
    code = bytes((CS,)) + branch(CALL, site + 1, target)
    asked.memory.add(
        Region(site, bytearray((code + bytes(10) + struct.pack("<i", -16)).ljust(PAGE, b"\0")), "asked[0]")
    )
    written: list[bytes] = []

    def poke(machine: Machine) -> int:
        written.append(machine.read(machine.pointer(1), machine.argument(2)))
        return 0

    with asked.execution.answering("text_poke_early", poke):
        asked.call("apply_retpolines", site + 16, site + 20)
    return written == [bytes((CS,)) * 3 + b"\x41\xff\xd3"]

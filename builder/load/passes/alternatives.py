"""apply_alternatives: instructions chosen by what the CPU can do (arch/x86/kernel/alternative.c).

`struct alt_instr` (asm/alternative.h): s32 place of the original, s32 place of
the replacement, both relative to themselves; u16 CPU feature; from v6.3 u16
flags (before, bit 15 of the feature negates); u8 length of each.

v6.1 copies the replacement, corrects a leading call or jump of five bytes,
pads, and makes NOPs of single 0x90 longer in the text itself; v6.12 corrects
every relative operand in a buffer and makes one NOP of each run. Where the kernel
has `struct patch_site` (v7.0) all entries of one site are looked at together, the last that
applies is written, and the table keeps its lengths.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import groupby

from iced_x86 import Code, Instruction, Mnemonic, OpKind, Register

from builder.binary import Address
from builder.image.facts import CodeFacts
from builder.image.memory import U64
from builder.load.passes.context import (
    CALL,
    INT3,
    JMP8,
    JMP32,
    NOP1,
    NOPS,
    Context,
    branch,
    fill,
    opcode_at,
    relative,
    wrap32,
)
from builder.load.passes.decode import instructions, length

OLD = struct.Struct("<iiHBB")
NEW = struct.Struct("<iiHHBB")
DS = 0x3E
INVERTED = 1 << 15
"""ALTINSTR_FLAG_INV (v6.1)"""
NOT, DIRECT_CALL = 1, 2
"""ALT_FLAG_NOT (v6.3), ALT_FLAG_DIRECT_CALL (v6.8)"""
_S32 = struct.Struct("<i")


def apply(context: Context) -> None:
    """The table in its order: a later entry may overwrite what an earlier one wrote."""
    table = context.table(".altinstructions")
    if table is None:
        return
    content = context.content(table)
    if context.kernel.facts.alternative_size == OLD.size:
        _apply_old(context, table.address, content)
    elif context.kernel.kernel.features.site_by_site:
        _apply_sites(context, table.address, content)
    else:
        _apply_new(context, table.address, content)


# v6.1


def _apply_old(context: Context, start: Address, content: bytes) -> None:
    state, memory = context.kernel.state, context.memory
    for at in range(0, len(content) // OLD.size * OLD.size, OLD.size):
        place, other, feature, size, other_size = OLD.unpack_from(content, at)
        site, source = start + at + place, start + at + 4 + other
        if state.has(feature & ~INVERTED) != bool(feature & INVERTED):
            code = bytearray(memory.read(source, other_size))
            if other_size == 5 and code[0] == CALL:
                _S32.pack_into(code, 1, wrap32(relative(code) + source - site))
            if other_size == 5 and code[0] in (JMP32, JMP8):
                code = _jump(code, source, site)
            code += bytes((NOP1,)) * (size - len(code))
            context.poke(site, bytes(code))
        beyond = 15 if memory.find(site + size + 14) else 0
        longer = _lengthen(memory.read(site, size + beyond), size)
        if longer is not None:
            context.poke(site, longer)


def _jump(code: bytearray, source: Address, site: Address) -> bytearray:
    """recompute_jump(): short where it leads forward and is near enough."""
    distance = source + 5 + relative(code) - site
    if distance >= 0 and distance - 2 <= 127:
        return bytearray((JMP8, distance - 2)) + NOPS[3]
    return bytearray(branch(JMP32, site, site + distance))


def _lengthen(code: bytes, size: int) -> bytes | None:
    """optimize_nops() of v6.1 on `size` bytes of code, more following; None where nothing changes."""
    if b"\x90\x90" not in code[:size]:
        return None
    out = bytearray(code)
    at = 0
    while at < size:
        if out[at] == NOP1:
            end = at
            while end < size and out[end] == NOP1:
                end += 1
            if end - at > 1:
                out[at:end] = fill(end - at, 8)
            at = end
            continue
        step = length(bytes(out[at : at + 15]))
        if not step:
            break
        at += step
    return bytes(out[:size])


# v6.3 and later


def _apply_new(context: Context, start: Address, content: bytes) -> None:
    state, memory, facts = context.kernel.state, context.memory, context.kernel.facts
    count = len(content) // NEW.size
    rows = [list(NEW.unpack_from(content, NEW.size * i)) for i in range(count)]
    for i, row in enumerate(rows):
        entry = start + NEW.size * i
        place, other, feature, flags, _, _ = row
        site, source = entry + place, entry + 4 + other
        # Nested alternatives are consecutive entries for one place, padded to the longest.
        after = i + 1
        while after < count and start + NEW.size * after + rows[after][0] == site:
            row[4] = rows[after][4] = max(row[4], rows[after][4])
            after += 1
        _write_lengths(context, start, content, rows, i, after)
        size = row[4]
        if state.has(feature) == bool(flags & NOT):
            old = memory.read(site, size)
            new = one_nop(old, facts)
            if new != old:
                context.poke(site, new)
            continue
        moved = _replacement(context, site, source, row)
        context.poke(site, one_nop(moved[:size], facts) + moved[size:])


def _replacement(context: Context, site: Address, source: Address, row: Sequence[int]) -> bytes:
    """The replacement of an entry as it runs at `site`, padded to the length of the site."""
    _, _, _, flags, size, other_size = row
    code = bytearray(context.memory.read(source, other_size))
    if flags & DIRECT_CALL:
        code = _direct_call(context, site, code, size)
    code += bytes((NOP1,)) * (size - len(code))
    return moved_code(bytes(code), site, source, size, other_size)


def _apply_sites(context: Context, start: Address, content: bytes) -> None:
    """analyze_patch_site(), prep_patch_site(), patch_site()."""
    state, memory, facts = context.kernel.state, context.memory, context.kernel.facts
    rows = [(start + NEW.size * i, row) for i, row in enumerate(NEW.iter_unpack(content[: _whole(content)]))]
    for site, group in groupby(rows, lambda pair: pair[0] + pair[1][0]):
        entries = list(group)
        size = max(row[4] for _, row in entries)
        chosen = [(at, row) for at, row in entries if state.has(row[2]) != bool(row[3] & NOT)]
        old = memory.read(site, size)
        new = old
        if chosen:
            at, row = chosen[-1]
            new = _replacement(context, site, at + 4 + row[1], (*row[:4], size, row[5]))
        new = one_nop(new[:size], facts)
        if new != old:
            context.poke(site, new)


def _whole(content: bytes) -> int:
    """The bytes that whole entries take."""
    return len(content) // NEW.size * NEW.size


def _write_lengths(
    context: Context, start: Address, content: bytes, rows: list[list[int]], first: int, after: int
) -> None:
    """The table itself keeps the lengths that nesting made equal."""
    for i in range(first, after) if after > first + 1 else ():
        at = NEW.size * i + 12
        if content[at] != rows[i][4] and context.memory.u8(start + at) != rows[i][4]:
            context.poke(start + at, bytes((rows[i][4],)))


def _direct_call(context: Context, site: Address, code: bytearray, size: int) -> bytearray:
    """alt_replace_call(): `call BUG_func` becomes a call of what `call *slot(%rip)` would have called."""
    original = context.memory.read(site, 6)
    if len(code) != 5 or code[0] != CALL or size != 6 or original[:2] != b"\xff\x15":
        context.warn(site, "ALT_FLAG_DIRECT_CALL set for an unrecognized call")
        return code
    bug = context.kernel.kernel.symbol("BUG_func").address
    target = context.memory.u64(site + 6 + relative(original, 2)) or bug
    if target == context.kernel.symbols.address("nop_func"):
        return bytearray()
    _S32.pack_into(code, 1, wrap32(relative(code) + target - bug))
    return code


def moved_code(code: bytes, site: Address, source: Address, size: int, source_size: int) -> bytes:
    """__apply_relocation(): relative operands that lead out of the replacement, seen from `site`."""
    out = bytearray(code)
    by = source - site
    for at, instruction, places in instructions(code[:size]):
        opcode, before = opcode_at(code[at:])
        second = code[at + before + 1] if at + before + 1 < len(code) else 0
        after = at + instruction.len
        if opcode in (JMP8, JMP32, CALL) or 0x70 <= opcode <= 0x7F or (opcode == 0x0F and 0x80 <= second <= 0x8F):
            width = 1 if opcode == JMP8 or 0x70 <= opcode <= 0x7F else 4
            value = int.from_bytes(code[after - width : after], "little", signed=True)
            if not 0 <= after + value <= source_size:
                _add(out, after - width, width, by)
            if opcode == JMP32 and -128 <= wrap32(value + by + 3) <= 127:
                out[at : at + 2] = bytes((JMP8, (value + by + 3) & 0xFF))
                out[at + 2 : after] = bytes((INT3,)) * (instruction.len - 2)
        if instruction.is_ip_rel_memory_operand:
            where = at + places.displacement_offset
            value = relative(code, where)
            if not 0 <= after + value <= source_size:
                _add(out, where, places.displacement_size, by)
    return bytes(out)


def _add(out: bytearray, at: int, width: int, by: int) -> None:
    value = int.from_bytes(out[at : at + width], "little", signed=True) + by
    out[at : at + width] = (value & U64 & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def one_nop(code: bytes, facts: CodeFacts) -> bytes:
    """optimize_nops() of v6.4 and later: each run of NOPs as one instruction, or a jump over it."""
    longest, nop = facts.longest_nop, does_nothing if facts.knows_many_nops else is_nop
    if nop is is_nop and b"\x90" not in code and b"\x0f\x1f" not in code:
        return code
    out = bytearray(code)
    begin: int | None = None
    at = 0
    for at, instruction, _ in instructions(code):
        end = at + instruction.len
        if nop(code[at:end], instruction):
            if begin is None:
                if end == len(code):
                    return bytes(out)  # already as long as can be
                begin = at
        elif begin is not None:
            out[begin:at] = _add_nop(at - begin, longest)
            begin = None
        at = end
    if begin is not None:
        out[begin:at] = _add_nop(at - begin, longest)
    return bytes(out)


def _add_nop(size: int, longest: int) -> bytes:
    if size <= longest:
        return NOPS[size]
    head = bytes((JMP8, size - 2)) if size < 128 else branch(JMP32, Address(0), Address(size))
    return head + bytes((INT3,)) * (size - len(head))


def is_nop(code: bytes, instruction: Instruction) -> bool:
    """insn_is_nop(): 0x90 without REP, and NOPL."""
    opcode, at = opcode_at(code)
    return (opcode == NOP1 and code[0] != 0xF3) or (opcode == 0x0F and code[at + 1] == 0x1F)


def does_nothing(code: bytes, instruction: Instruction) -> bool:
    """insn_is_nop() of arch/x86/lib/insn-eval.c (v6.19): more than the NOPs by name.

    `mov %reg,%reg` and `lea 0(%reg),%reg` of 64 bits, the latter behind DS prefixes alone, and a jump to what follows;
    but neither PAUSE nor `xchg %r8,%rax`, which have the opcode of the NOP.
    """
    if instruction.mnemonic == Mnemonic.NOP:
        opcode, at = opcode_at(code)
        return opcode == NOP1 or (opcode == 0x0F and code[at + 1] == 0x1F and not code[at + 2] & 0x38)
    if instruction.code in (Code.JMP_REL8_64, Code.JMP_REL32_64):
        return bool(instruction.near_branch_target == instruction.next_ip)
    if instruction.op0_kind != OpKind.REGISTER or instruction.op0_register < Register.RAX:
        return False
    if instruction.code == Code.MOV_RM64_R64:
        return bool(instruction.op1_kind == OpKind.REGISTER and instruction.op0_register == instruction.op1_register)
    if instruction.mnemonic != Mnemonic.LEA:
        return False
    prefixes = code[: opcode_at(code)[1]]
    plain = all(byte == DS or 0x40 <= byte <= 0x4F for byte in prefixes)
    same = instruction.memory_base == instruction.op0_register and instruction.memory_index == Register.NONE
    return plain and same and not instruction.memory_displacement and instruction.memory_displ_size > 0

"""x86-64: relocations of the psABI (table 4.9) that a kernel module may hold, and its instructions.

Decoding is iced-x86's: it gets the length of UD0/UD1 (static-call trampolines)
right on all of vmlinux. Disassembly that people see is capstone's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import iced_x86
from iced_x86 import FlowControl, Mnemonic, OpAccess, OpKind

from builder.arch.model import Architecture, EntryMark, Glue, Instruction, RelocationRow, SiteTable
from builder.arch.x86_operands import GENERAL, REGISTERS, is_indexed, is_relative, memory_access, operation
from builder.arch.x86_thunks import THUNKS, long_branch

if TYPE_CHECKING:
    from builder.arch.disassembler import Disassembler

# psABI "Relocation Types"; the kernel applies these in apply_relocate_add,
# arch/x86/kernel/module.c (Linux 6.1), and refuses all others.
_ROWS = {
    0: RelocationRow("R_X86_64_NONE", 0, False),
    1: RelocationRow("R_X86_64_64", 8, False),
    2: RelocationRow("R_X86_64_PC32", 4, True),
    4: RelocationRow("R_X86_64_PLT32", 4, True),
    10: RelocationRow("R_X86_64_32", 4, False),
    11: RelocationRow("R_X86_64_32S", 4, False),
    15: RelocationRow("R_X86_64_PC8", 1, True),
    24: RelocationRow("R_X86_64_PC64", 8, True),
}

_JUMPS = {FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH}
_ENDS = {
    FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH, FlowControl.RETURN,
    FlowControl.INTERRUPT, FlowControl.EXCEPTION,
}  # fmt: skip
_NEAR = {OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64}


class _Facts(NamedTuple):
    """What all instructions of one iced `Code` have in common."""

    mnemonic: int
    has_target: bool
    is_nop: bool
    is_call: bool
    is_jump: bool
    ends_block: bool


def _facts(insn: iced_x86.Instruction) -> _Facts:
    flow, mnemonic = insn.flow_control, insn.mnemonic
    call, jump = flow == FlowControl.CALL, flow in _JUMPS
    near = (call or jump) and insn.op0_kind in _NEAR
    return _Facts(mnemonic, near, mnemonic == Mnemonic.NOP, call, jump, flow in _ENDS)


_FACTS: dict[int, _Facts] = {}
_NO_CODE = iced_x86.Code.INVALID


def decode(code: bytes, start: int = 0) -> list[Instruction]:
    """Instructions of `code`, whose first byte lies at `start`.

    A byte sequence that is no instruction becomes one-byte rows with mnemonic
    0, so that the rows always cover the code without gaps.
    """
    out: list[Instruction] = []
    known, new, append = _FACTS, tuple.__new__, out.append
    for insn in iced_x86.Decoder(64, code, ip=start):
        kind = insn.code
        offset, length = insn.ip, insn.len
        if kind == _NO_CODE:
            out += _unknown(offset, max(length, 1))
            continue
        facts = known.get(kind)
        if facts is None:
            facts = known[kind] = _facts(insn)
        mnemonic, near, nop, call, jump, ends = facts
        # tuple.__new__ spares a Python frame for each instruction of the object.
        target = insn.near_branch_target if near else None
        append(new(Instruction, (offset, length, mnemonic, target, nop, call, jump, ends)))
    covered = out[-1].end if out else start
    out += _unknown(covered, start + len(code) - covered)
    return out


def _unknown(start: int, count: int) -> Iterator[Instruction]:
    return (Instruction(start + k, 1, 0, None, False, False, False, False) for k in range(count))


def loads_to(code: bytes) -> str | None:
    """The 64-bit name of the register that a `mov $imm, %reg` or a `lea` of an address loads, else None."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    if insn is None or insn.mnemonic not in (Mnemonic.MOV, Mnemonic.LEA) or insn.op0_kind != OpKind.REGISTER:
        return None
    if insn.mnemonic == Mnemonic.LEA:
        return _full_register(insn.op0_register) if insn.is_ip_rel_memory_operand else None
    if insn.op1_kind not in (OpKind.IMMEDIATE32, OpKind.IMMEDIATE64, OpKind.IMMEDIATE32TO64):
        return None
    return _full_register(insn.op0_register)


def pushes(code: bytes) -> bool:
    """Whether an instruction puts eight bytes on the stack: a register, a constant, or memory."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    return insn is not None and insn.mnemonic == Mnemonic.PUSH


_IMMEDIATES = {
    OpKind.IMMEDIATE8, OpKind.IMMEDIATE16, OpKind.IMMEDIATE32, OpKind.IMMEDIATE64, OpKind.IMMEDIATE8TO16,
    OpKind.IMMEDIATE8TO32, OpKind.IMMEDIATE8TO64, OpKind.IMMEDIATE32TO64,
}  # fmt: skip


def immediate(code: bytes) -> tuple[object, int] | None:
    """All of an instruction but its one immediate, whatever its width, and the immediate; None without one."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    if insn is None or insn.mnemonic == Mnemonic.INVALID:
        return None
    found = [k for k in range(insn.op_count) if insn.op_kind(k) in _IMMEDIATES]
    if len(found) != 1:
        return None
    rest: list[object] = [insn.mnemonic, insn.has_lock_prefix, insn.segment_prefix]
    for k in range(insn.op_count):
        kind = insn.op_kind(k)
        if k == found[0]:
            rest.append("immediate")
        elif kind == OpKind.REGISTER:
            rest.append(insn.op_register(k))
        else:
            rest += [
                kind,
                insn.memory_base,
                insn.memory_index,
                insn.memory_index_scale,
                insn.memory_displacement,
                insn.memory_size,
            ]
    return tuple(rest), insn.immediate(found[0])


@lru_cache(maxsize=256)
def _full_register(register: int) -> str | None:
    return _REGISTER_NAMES.get(iced_x86.RegisterExt.full_register(register))  # type: ignore[arg-type]


_REGISTER_NAMES = dict(zip(GENERAL, REGISTERS, strict=True))


def writes(code: bytes) -> frozenset[str]:
    """64-bit names of the registers that an instruction writes."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    if insn is None:
        return frozenset()
    used = _info().info(insn).used_registers()
    names = (_full_register(u.register) for u in used if u.access in _WRITES)
    return frozenset(name for name in names if name is not None)


_WRITES = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}


@lru_cache(maxsize=1)
def _info() -> iced_x86.InstructionInfoFactory:
    return iced_x86.InstructionInfoFactory()


def text(code: bytes, address: int = 0) -> str:
    """One instruction as a person reads it (AT&T syntax, as the kernel's own tools print)."""
    if (found := _disassembler()(code, address)) is not None:
        return f"{found[0]} {_WIDE.sub(_signed, found[1])}".strip()
    return ".byte " + ",".join(f"{b:#04x}" for b in code)


# The disassembler shows an immediate of 64 bits as a number without a sign.
_WIDE = re.compile(r"\$(0x[0-9a-f]{16}|\d{19,20})(?![0-9a-f])")
_SMALL = 4096


def _signed(match: re.Match[str]) -> str:
    """A small negative number as compilers write it, such as an error code; what may be an address in hexadecimal."""
    value = int(match[1], 0)
    below = (1 << 64) - value
    return f"$-{below}" if 0 < below < _SMALL else f"${value:#x}"


@lru_cache(maxsize=1)
def _disassembler() -> Disassembler:
    from builder.arch.disassembler import x86_disassembler  # here, for where code is the same nobody reads it

    return x86_disassembler()


def is_address_load(code: bytes) -> bool:
    """Whether the instruction only computes an address (lea, mov of an immediate) or stores/pushes one."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    return insn is not None and insn.mnemonic in (Mnemonic.LEA, Mnemonic.MOV, Mnemonic.PUSH, Mnemonic.CMP)


def is_direct_transfer(code: bytes) -> bool:
    """Whether the instruction is a direct call or jump (its operand is the target itself)."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    return insn is not None and insn.op_count > 0 and insn.op0_kind in _NEAR


def relative_place(code: bytes, offset: int) -> int | None:
    """Where an instruction at `offset` leads by a distance: as a direct branch, or by its operand in memory
    (RIP-relative). None where it does not."""
    insn = next(iter(iced_x86.Decoder(64, code, ip=offset)), None)
    if insn is None:
        return None
    if insn.op_count > 0 and insn.op0_kind in _NEAR:
        return int(insn.near_branch_target)
    return int(insn.ip_rel_memory_address) if insn.is_ip_rel_memory_operand else None


# regoffset_table (arch/x86/kernel/ptrace.c, v6.1) names the eight old registers without their r; those of the
# segments are the same wherever kernel code runs.
_FETCH: dict[str, int | None] = {name.removeprefix("r"): k for k, name in enumerate(REGISTERS[:8])}
_FETCH |= {name: k for k, name in enumerate(REGISTERS)} | {"cs": None, "ss": None}

_FENTRY, _RETURN_THUNK = "__fentry__", "__x86_return_thunk"
# What objtool makes of a module that it links: create_return_sites_sections(), create_retpoline_sites_sections(),
# create_direct_call_sections() (tools/objtool/check.c, v6.12).
_SITES = (
    SiteTable(".return_sites", "return_thunk", _RETURN_THUNK),
    SiteTable(".retpoline_sites", "retpoline", r"__x86_indirect_(call_|jump_)?thunk_.*"),
    SiteTable(".call_sites", "call_thunks", rf"(?!{_FENTRY}$).*", of_known_calls=True),
)


X86_64 = Architecture(
    name="x86-64",
    machine=62,
    relocations=_ROWS,
    pc32=2,
    pc8=15,
    absolute=1,
    call_types=frozenset({2, 4, 15}),
    branch_types=frozenset({4, 15}),
    fentry=_FENTRY,
    entry_reach=24,  # ENDBR64, five bytes of call, and what -fpatchable-function-entry puts before them
    entry_mark=EntryMark(
        "ENDBR", b"\xf3\x0f\x1e\xfa", "ibt", ".ibt_endbr_seal", "__ibt_endbr_seal", "__ibt_endbr_seal_end"
    ),
    nops={1: b"\x90", 2: b"\x66\x90", 5: b"\x0f\x1f\x44\x00\x00"},
    filler=b"\xcc",
    thunks=THUNKS,
    probe_copy=5,  # RELATIVEJUMP_SIZE (arch/x86/include/asm/kprobes.h, v6.1): of one that is optimized
    sites=_SITES,
    glue=Glue(
        "glue.x86_64.s.j2",
        ("--64",),
        modinfo=(("retpoline", "retpoline", "Y"),),
        imports=(("return_thunk", _RETURN_THUNK),),
    ),
    registers=REGISTERS,
    stack_register="rsp",
    frame_register="rbp",
    fetch_registers=_FETCH,
    argument_registers=("rdi", "rsi", "rdx", "rcx", "r8", "r9"),
    decode=decode,
    loads_to=loads_to,
    pushes=pushes,
    immediate=immediate,
    writes=writes,
    text=text,
    is_address_load=is_address_load,
    is_direct_transfer=is_direct_transfer,
    relative_place=relative_place,
    operation=operation,
    memory_access=memory_access,
    is_indexed=is_indexed,
    is_relative=is_relative,
    long_branch=long_branch,
)

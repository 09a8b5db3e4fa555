"""What an x86-64 instruction does to the general registers and to the stack, by iced-x86."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import iced_x86
from iced_x86 import ConditionCode, FlowControl, Mnemonic, OpAccess, OpKind, Register

from builder.arch.model import Operation

# In the order of their encoding (Intel SDM vol. 2, table 2-2).
GENERAL: Final = (
    Register.RAX, Register.RCX, Register.RDX, Register.RBX, Register.RSP, Register.RBP, Register.RSI, Register.RDI,
    Register.R8, Register.R9, Register.R10, Register.R11, Register.R12, Register.R13, Register.R14, Register.R15,
)  # fmt: skip
REGISTERS: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
_BIT: Final = {register: 1 << k for k, register in enumerate(GENERAL)}
_RSP, _RBP = _BIT[Register.RSP], _BIT[Register.RBP]
# psABI figure 3.4: what a called function need not preserve.
CLOBBERED: Final = sum(
    _BIT[register]
    for register in (
        Register.RAX, Register.RCX, Register.RDX, Register.RSI, Register.RDI, Register.R8, Register.R9, Register.R10,
        Register.R11,
    )
)  # fmt: skip
_READS: Final = {
    OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE,
}  # fmt: skip
_WRITES: Final = {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
_BRANCHES: Final = {OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64}
_IMMEDIATES: Final = {
    OpKind.IMMEDIATE8, OpKind.IMMEDIATE8_2ND, OpKind.IMMEDIATE16, OpKind.IMMEDIATE32, OpKind.IMMEDIATE64,
    OpKind.IMMEDIATE8TO16, OpKind.IMMEDIATE8TO32, OpKind.IMMEDIATE8TO64, OpKind.IMMEDIATE32TO64,
}  # fmt: skip
_INDIRECT: Final = {FlowControl.INDIRECT_BRANCH}
_CALLS: Final = {FlowControl.CALL, FlowControl.INDIRECT_CALL}


@lru_cache(maxsize=1)
def _factory() -> iced_x86.InstructionInfoFactory:
    return iced_x86.InstructionInfoFactory()


@lru_cache(maxsize=65536)
def operation(code: bytes) -> Operation:
    """The parts of one instruction; bytes that are none have no form but themselves."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    if insn is None or not insn:
        return Operation(("bytes", code), (), (), 0, (1 << len(GENERAL)) - 1, False, True, False, flags_write=True)
    plain = min(insn.mnemonic, _opposite(insn))
    form: list[object] = [plain, insn.has_lock_prefix, insn.has_rep_prefix, insn.has_repne_prefix]
    registers: list[int] = [insn.segment_prefix]
    constants: list[int] = []
    named: list[int] = []
    for k in range(insn.op_count):
        kind = insn.op_kind(k)
        if kind == OpKind.REGISTER:
            register = insn.op_register(k)
            form += ["register", iced_x86.RegisterExt.size(register)]
            registers.append(register)
            named.append(_bit(register))
        elif kind in _BRANCHES:
            form.append("branch")
        elif kind in _IMMEDIATES:
            form.append("constant")
            constants.append(insn.immediate(k))
        else:
            form += ["memory", insn.memory_size]
            registers += [insn.memory_base, insn.memory_index, insn.memory_index_scale]
            named += [_bit(insn.memory_base), _bit(insn.memory_index)]
            relative = insn.memory_base in (Register.RIP, Register.EIP)
            constants.append(0 if relative else insn.memory_displacement)
    reads, writes, stack_read, stack_write = _effects(insn)
    indirect = insn.flow_control in _INDIRECT
    return Operation(
        tuple(form),
        tuple(registers),
        tuple(constants),
        reads,
        writes,
        stack_read,
        stack_write,
        indirect,
        flags_read=bool(insn.rflags_read),
        flags_write=bool(insn.rflags_modified) or insn.flow_control in _CALLS,
        moved=_moved(insn),
        read_order=_in_order(named, reads),
        repeats=insn.is_string_instruction and (insn.has_rep_prefix or insn.has_repne_prefix),
        negated=insn.mnemonic != plain,
    )


def _opposite(insn: iced_x86.Instruction) -> int:
    """The conditional jump that is taken where this one is not; of anything else what it is itself."""
    if insn.flow_control != FlowControl.CONDITIONAL_BRANCH or insn.condition_code == ConditionCode.NONE:
        return insn.mnemonic
    other = insn.copy()
    other.negate_condition_code()
    return other.mnemonic


def _bit(register: Register) -> int:  # type: ignore[valid-type]
    return _BIT.get(iced_x86.RegisterExt.full_register(register), 0)


def _in_order(named: list[int], reads: int) -> tuple[int, ...]:
    """The numbers of the registers that are read; those of the operands, given by their bits, come first."""
    return tuple(bit.bit_length() - 1 for bit in dict.fromkeys((*named, *_BIT.values())) if bit & reads)


def _moved(insn: iced_x86.Instruction) -> tuple[int, int] | None:
    """A copy of a whole register, or of its lower half, which clears the upper one (SDM vol. 1, 3.4.1.1)."""
    if insn.mnemonic != Mnemonic.MOV or insn.op_count != 2:
        return None
    if any(insn.op_kind(k) != OpKind.REGISTER or iced_x86.RegisterExt.size(insn.op_register(k)) < 4 for k in (0, 1)):
        return None
    to, source = (iced_x86.RegisterExt.full_register(insn.op_register(k)) for k in (0, 1))
    return (GENERAL.index(source), GENERAL.index(to)) if source in _BIT and to in _BIT else None


def _effects(insn: iced_x86.Instruction) -> tuple[int, int, bool, bool]:
    info = _factory().info(insn)
    reads = writes = 0
    for used in info.used_registers():
        bit = _bit(used.register)
        reads |= bit if used.access in _READS else 0
        writes |= bit if used.access in _WRITES else 0
    stack_read = stack_write = False
    if insn.flow_control not in _CALLS and insn.flow_control != FlowControl.RETURN:
        for memory in info.used_memory():
            if _BIT.get(memory.base, 0) & (_RSP | _RBP):
                stack_read |= memory.access in _READS
                stack_write |= memory.access in _WRITES
    else:
        writes = (writes & ~_RSP) | (CLOBBERED if insn.flow_control != FlowControl.RETURN else 0)
    return reads, writes, stack_read, stack_write


@lru_cache(maxsize=65536)
def memory_access(code: bytes) -> str:
    """What an instruction does to its memory operand: "read", "write", "change", or "address" where it has none.

    An instruction without memory operand, or one that only computes (`lea`), takes the address of what it refers to.
    """
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    if insn is None or not insn:
        return "address"
    explicit = [k for k in range(insn.op_count) if insn.op_kind(k) == OpKind.MEMORY]
    if not explicit:
        return "address"
    found = [_factory().info(insn).op_access(k) for k in explicit]
    reads, writes = any(f in _READS for f in found), any(f in _WRITES for f in found)
    return {(True, True): "change", (True, False): "read", (False, True): "write"}.get((reads, writes), "address")


@lru_cache(maxsize=65536)
def is_indexed(code: bytes) -> bool:
    """Whether the address of an instruction's memory operand depends on a register (other than RIP)."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    if insn is None or not insn or not any(insn.op_kind(k) == OpKind.MEMORY for k in range(insn.op_count)):
        return False
    return not insn.is_ip_rel_memory_operand and bool(insn.memory_base or insn.memory_index)


@lru_cache(maxsize=65536)
def is_relative(code: bytes) -> bool:
    """Whether an instruction's memory operand lies at a distance from the instruction itself."""
    insn = next(iter(iced_x86.Decoder(64, code)), None)
    return insn is not None and bool(insn) and insn.is_ip_rel_memory_operand

"""Instruction facts of x86-64, against encodings written down from the manuals."""

from __future__ import annotations

import random
import re

import iced_x86
import pytest

from builder.arch import by_machine, disassembler
from builder.arch.x86_64 import X86_64, decode, immediate, loads_to, writes
from builder.arch.x86_operands import GENERAL
from builder.errors import InputError


def code(text: str) -> bytes:
    return bytes.fromhex(text)


def test_what_each_instruction_is() -> None:
    rows = decode(code("e8000000000f1f007402ebf8ffe0c30f0b"), 0)
    call, nop, jcc, jmp, indirect, ret, ud2 = rows
    assert call.is_call and call.target == 5 and not call.ends_block
    assert nop.is_nop and nop.target is None
    assert jcc.is_jump and jcc.target == 12 and not jcc.ends_block
    assert jmp.is_jump and jmp.target == 4 and jmp.ends_block
    assert indirect.target is None and indirect.ends_block and not indirect.is_call
    assert ret.ends_block and ud2.ends_block


@pytest.mark.parametrize("text", ["0fb9c8", "0fffc0"])
def test_undefined_instructions_have_their_full_length(text: str) -> None:
    """UD1 and UD0 have a ModRM byte: static-call trampolines hold one."""
    assert [i.length for i in decode(code(text), 0)] == [3]


@pytest.mark.parametrize(
    ("text", "register"),
    [("be26000000", "rsi"), ("48c7c726000000", "rdi"), ("41b826000000", "r8"), ("8b37", None), ("8926", None),
     ("6a26", None), ("c7042426000000", None), ("488d3d00000000", "rdi"), ("488d7e08", None)],
)  # fmt: skip
def test_constants_and_addresses_loaded_to_registers(text: str, register: str | None) -> None:
    assert loads_to(code(text)) == register


@pytest.mark.parametrize(
    ("text", "registers"),
    [("be26000000", {"rsi"}), ("31f6", {"rsi"}), ("4839fe", set()), ("5e", {"rsi"}), ("41f7f8", {"rax", "rdx"})],
)  # fmt: skip
def test_registers_that_are_written(text: str, registers: set[str]) -> None:
    assert writes(code(text)) >= registers
    assert ("rsi" in writes(code(text))) == ("rsi" in registers)


def test_an_immediate_is_apart_from_the_rest_whatever_its_width() -> None:
    short, wide, other = immediate(code("6a38")), immediate(code("689c000000")), immediate(code("50"))
    assert short and wide and short[0] == wide[0] and (short[1], wide[1]) == (0x38, 0x9C)
    assert other is None
    one, two = immediate(code("c7452001000000")), immediate(code("c7452401000000"))
    assert one and two and one[0] != two[0], "another displacement is another instruction"
    locked, plain = immediate(code("f083452001")), immediate(code("83452001"))
    assert locked and plain and locked[0] != plain[0]


def test_text_is_what_the_kernel_s_tools_print() -> None:
    assert X86_64.text(code("be26000000"), 0) == "movl $0x26, %esi"
    assert X86_64.text(b"\x06", 0) == ".byte 0x06"


@pytest.mark.parametrize(
    ("bytes_of", "text"),
    [
        ("48c7c0ffffffff", "movq $-1, %rax"),
        ("48c7c0eaffffff", "movq $-22, %rax"),
        ("48b8ffffffffffffffff", "movabsq $-1, %rax"),
        ("4883e4f0", "andq $-16, %rsp"),
        ("48c744240800000080", "movq $0xffffffff80000000, 8(%rsp)"),
        ("b8ffffffff", "movl $0xffffffff, %eax"),
        ("4883e8ff", "subq $-1, %rax"),
    ],
)
def test_immediates_are_written_as_people_write_them(bytes_of: str, text: str) -> None:
    assert X86_64.text(code(bytes_of), 0) == text


def test_the_library_says_what_the_package_does() -> None:
    """Which is what reads where the library is another, or elsewhere; at every place of some code, inside instructions
    too."""
    usual, package = disassembler.x86_disassembler(), disassembler._by_package()
    assert usual.__qualname__.startswith("_by_library"), "the installed capstone is read by its package"
    rows = random.Random(1).randbytes(4000)
    texts = [usual(rows[at : at + 16], at) for at in range(len(rows))]
    assert texts == [package(rows[at : at + 16], at) for at in range(len(rows))]
    assert None in texts and len(set(texts)) > 500


def test_without_the_known_library_the_package_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disassembler, "_MAJOR", 4)
    found = disassembler.x86_disassembler()
    assert found.__qualname__.startswith("_by_package") and found(code("be26000000"), 0) == ("movl", "$0x26, %esi")


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(InputError, match="AArch64"):
        by_machine(183, where="x.o")


@pytest.mark.parametrize(
    ("target", "tables"),
    [
        ("__x86_return_thunk", {".return_sites", ".call_sites"}),
        ("__x86_indirect_thunk_rax", {".retpoline_sites", ".call_sites"}),
        ("__x86_indirect_call_thunk_r11", {".retpoline_sites", ".call_sites"}),
        ("__x86_return_thunk_other", {".call_sites"}),
        ("__fentry__", set()),
        ("__fentry__2", {".call_sites"}),
        ("printk", {".call_sites"}),
    ],
)
def test_what_a_call_belongs_in(target: str, tables: set[str]) -> None:
    assert {row.name for row in X86_64.sites if re.fullmatch(row.target, target)} == tables


def test_the_registers_are_in_the_order_of_the_masks() -> None:
    """Each is what iced-x86 calls it, and writing it sets its bit."""
    for k, name in enumerate(X86_64.registers):
        assert iced_x86.Register.__dict__[name.upper()] == GENERAL[k]
        pop = bytes((0x41,) if k >= 8 else ()) + bytes((0x58 + k % 8,))
        assert X86_64.text(pop, 0) == f"popq %{name}"
        assert X86_64.operation(pop).writes >> k & 1

"""What the fetch arguments of a probe need of the place that it stands at."""

from __future__ import annotations

import pytest

from builder.arch import TARGET
from builder.operate.kprobes.arguments import STACK, names_of, needs


def bit(register: str) -> int:
    return 1 << TARGET.registers.index(register)


@pytest.mark.parametrize(
    ("argument", "mask"),
    [
        ("arg=%di:u64", bit("rdi")),
        ("arg=%r11", bit("r11")),
        ("arg=+8(%si):string", bit("rsi")),
        ("%ax", bit("rax")),
        ("s=$stack", bit("rsp")),
        ("s=$stack3:x8", bit("rsp") | STACK),
        ("s=+16(%sp):u32", bit("rsp") | STACK),
        ("s=+0(+8(%bp)):u32", bit("rbp") | STACK),
        ("s=+0($stack)", bit("rsp") | STACK),
        ("c=%cs", 0),
        ("c=\\1", 0),
        ("c=@jiffies", 0),
    ],
)
def test_what_is_read_must_be_the_same(argument: str, mask: int) -> None:
    assert needs([argument]) == (mask, None)


def test_all_arguments_count_up_to_one_that_cannot_follow() -> None:
    assert needs(["a=%di", "b=%si"]) == (bit("rdi") | bit("rsi"), None)
    assert needs(["a=%di", "b=%flags", "c=%si"]) == (bit("rdi"), "%flags")
    assert needs(["a=$arg1"]) == (0, "$arg1")
    assert needs([]) == (0, None)


def test_a_mask_is_told_as_the_kernel_spells_its_registers() -> None:
    assert names_of(bit("rdi") | bit("r8") | STACK) == "%di, %r8, the stack's slots"
    assert names_of(0) == ""

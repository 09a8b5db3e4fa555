"""Code that stands in for what the kernel would patch: tests of a static key, jumps that are bound late."""

from __future__ import annotations

from typing import Final

from builder.arch.model import ThunkCode

# cmpl $0, KEY(%rip); jne or je TAKEN; jmp BACK. An asm goto clobbers the flags (GCC manual, "Goto Labels": x86 always
# has "cc" among them), so nobody misses them. The count is not zero while a key is on, -1 as it is being turned
# (static_key_count(), include/linux/jump_label.h and kernel/jump_label.c, v6.1).
THUNKS: Final = ThunkCode(
    test=b"\x83\x3d\0\0\0\0\0",
    test_field=2,
    test_rest=5,
    if_on=b"\x0f\x85\0\0\0\0",
    if_off=b"\x0f\x84\0\0\0\0",
    jump=b"\xe9\0\0\0\0",
    short_jump=b"\xeb\0",
    call=0xE8,
)


def long_branch(code: bytes) -> bytes | None:
    """A direct jump in its form with an operand of four bytes, which are zero; None for what has none (loop, jrcxz)."""
    first, operand = code[0], bytes(4)
    if first in (0xEB, 0xE9):
        return b"\xe9" + operand
    if first & 0xF0 == 0x70:
        return bytes((0x0F, 0x80 | first & 0x0F)) + operand
    return code[:2] + operand if first == 0x0F and code[1] & 0xF0 == 0x80 else None

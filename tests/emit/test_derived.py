"""What objtool would have made, where the object is not as any compiler makes it."""

from __future__ import annotations

import pytest

from builder.arch.x86_64 import X86_64
from builder.emit.derived import _jump_labels
from builder.emit.fragments import Fragment, Reference
from builder.errors import InputError

CODE, ENTRY = (0, "code"), (0, "entry")


def labelled(code: bytes, at: int) -> list[Fragment]:
    """A function and an entry of its jump label at `at`, whose key says that objtool is to make a NOP of the jump."""
    references = (Reference(0, 2, CODE, at), Reference(4, 2, CODE, 0), Reference(8, 24, CODE, 2))
    return [
        Fragment(CODE, ".text", 6, False, 16, 0, code, len(code), owner="function"),
        Fragment(ENTRY, "__jump_table", 3, False, 8, 0, bytes(16), 16, references, entry_of="__jump_table"),
    ]


def test_a_jump_becomes_a_nop_of_its_length() -> None:
    code = _jump_labels(X86_64, labelled(b"\x53\xeb\x00\xc3", 1))[0]
    assert code.data == b"\x53\x66\x90\xc3"


LONGER = b"\x0f\x84\0\0\0\0\xc3"


@pytest.mark.parametrize("code", [LONGER, b"\xf2" + LONGER, b"\x2e\xeb\x00\xc3"])
def test_a_jump_that_no_nop_is_as_long_as_is_an_error(code: bytes) -> None:
    with pytest.raises(InputError, match="function: the jump label at 0x0 is no jump that a NOP is as long as"):
        _jump_labels(X86_64, labelled(code, 0))


@pytest.mark.parametrize("at", [-2, 3])
def test_a_jump_label_outside_its_function(at: int) -> None:
    with pytest.raises(InputError, match=r"function: a jump label at .* lies outside its 3 bytes"):
        _jump_labels(X86_64, labelled(b"\xeb\x00\xc3", at))

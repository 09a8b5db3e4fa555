"""Instruction lengths where the kernel decodes them (arch/x86/lib/insn.c), by iced-x86."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from iced_x86 import ConstantOffsets, Decoder, Instruction

from builder.binary import Address

_LONGEST: Final = 15


def instructions(code: bytes, address: Address = Address(0)) -> Iterator[tuple[int, Instruction, ConstantOffsets]]:
    """(offset, instruction, places of its constants) up to the first that cannot be decoded."""
    decoder = Decoder(64, bytes(code), ip=address & ((1 << 64) - 1))
    at = 0
    while decoder.can_decode:
        found = decoder.decode()
        if found.is_invalid:
            return
        yield at, found, decoder.get_constant_offsets(found)
        at += found.len


def length(code: bytes) -> int:
    """Bytes of the first instruction, 0 where it cannot be decoded."""
    found = Decoder(64, bytes(code[:_LONGEST])).decode()
    return 0 if found.is_invalid else int(found.len)

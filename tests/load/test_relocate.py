"""Relocations by the formulas of the psABI, with the kernel's refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.binary import Address, elf
from builder.errors import LoadError, UncheckedError
from builder.load.relocate import (
    NAMES,
    NONE,
    PC32,
    PC64,
    PLT32,
    R32,
    R32S,
    R64,
    RelocationTarget,
    apply_relocations,
    clear_relocations,
)

BASE = Address(0xFFFFFFFFC0001000)
NEAR = st.integers(BASE - (1 << 30), BASE + (1 << 30))


def row(offset: int, kind: int, symbol: int = 1, addend: int = 0) -> bytes:
    return elf.LITTLE.rela.pack(offset, kind, symbol, addend)


def apply(table: bytes, value: int, size: int = 64) -> bytearray:
    data = bytearray(size)
    apply_relocations(RelocationTarget(data, 0, BASE, size), table, [Address(0), Address(value)], "x.ko: .rela.text")
    return data


@given(NEAR, st.integers(0, 56), st.integers(-4096, 4096))
def test_the_formulas(value: int, offset: int, addend: int) -> None:
    for kind, width, expected in (
        (R64, 8, value + addend),
        (PC64, 8, value + addend - BASE - offset),
        (PC32, 4, value + addend - BASE - offset),
        (PLT32, 4, value + addend - BASE - offset),
        (R32S, 4, value + addend),
    ):
        data = apply(row(offset, kind, addend=addend), value)
        assert int.from_bytes(data[offset : offset + width], "little") == expected & ((1 << 8 * width) - 1)
        assert not any(data[:offset])
        assert not any(data[offset + width :])


@given(st.integers(0, (1 << 64) - 1))
def test_what_fits_is_as_the_kernel_sees_it(value: int) -> None:
    for kind, fits in ((R32, value < 1 << 32), (R32S, value < 1 << 31 or value >= (1 << 64) - (1 << 31))):
        if fits:
            apply(row(0, kind), value)
        else:
            with pytest.raises(LoadError, match=f"overflow in relocation type {NAMES[kind]}"):
                apply(row(0, kind), value)


def test_nothing_is_written_for_none() -> None:
    assert not any(apply(row(0, NONE), BASE))


def test_a_target_that_is_not_zero_is_refused() -> None:
    with pytest.raises(LoadError, match="existing value is nonzero") as caught:
        apply(row(4, PC32) + row(6, PLT32), BASE + 0x11223344)
    assert not isinstance(caught.value, UncheckedError)


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(LoadError, match="Unknown rela relocation: 42"):
        apply(row(0, 42), 0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (row(61, PC32), "outside a section"),
        (row(60, R64), "outside a section"),
        (row(0, PC32, symbol=2), "names symbol 2 of 2"),
        (row(0, PC32)[:-1], "no multiple of 24"),
        (row(0, PC32, addend=1 << 33), "a distance of"),
    ],
)
def test_what_the_kernel_would_not_notice_is_told_apart(table: bytes, words: str) -> None:
    with pytest.raises(UncheckedError, match=words):
        apply(table, BASE)


@given(NEAR)
def test_clearing_leaves_zeros(value: int) -> None:
    table = row(0, R64) + row(8, PC32) + row(16, R32S) + row(24, NONE)
    data = apply(table, value)
    clear_relocations(RelocationTarget(data, 0, BASE, len(data)), table)
    assert not any(data)

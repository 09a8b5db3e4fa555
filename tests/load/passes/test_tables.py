"""Tables that are sorted: sort_extable, unwind_module_init, and where ftrace calls.

Of builder/load/passes/extable.py, builder/load/passes/orc.py and builder/load/passes/ftrace.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

from builder.binary import Address
from builder.load.passes import extable, ftrace, orc
from builder.load.passes.context import CALL, NOP5, branch
from tests.load.passes.conftest import DATA, TEXT, Bench

pytestmark = pytest.mark.kernel

Row = tuple[int, int, int]


def exceptions(rows: Sequence[Row]) -> Callable[[Address], bytes]:
    def made(at: Address) -> bytes:
        return b"".join(
            struct.pack("<iii", code - at - 12 * i, fixup - at - 12 * i - 4, data)
            for i, (code, fixup, data) in enumerate(rows)
        )

    return made


def read_exceptions(bench: Bench, at: Address, count: int) -> list[Row]:
    found = []
    for i in range(count):
        start = at + 12 * i
        code, fixup, data = struct.unpack("<iii", bench.kernel.memory.read(start, 12))
        found.append((start + code, start + 4 + fixup, data))
    return found


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_exceptions_are_sorted_with_their_fixups(old: Bench, order: tuple[int, ...]) -> None:
    rows = [(TEXT + 16 * i, TEXT + 0x800 - 8 * i, i + 7) for i in range(4)]
    at = old.table("__ex_table", exceptions([rows[i] for i in order]))
    behind = old.data(b"what is behind it")
    context = old.run(extable.apply)
    assert read_exceptions(old, at, 4) == rows
    assert old.kernel.memory.read(behind, 17) == b"what is behind it"
    assert context.counts == ({} if order == (0, 1, 2, 3) else {"pass": 1})


def test_half_an_exception_is_left_alone(old: Bench) -> None:
    rows = [(TEXT + 64, TEXT, 1), (TEXT + 32, TEXT, 2)]
    at = old.table("__ex_table", lambda at: exceptions(rows)(at) + b"\1\2\3\4\5")
    old.run(extable.apply)
    assert read_exceptions(old, at, 2) == rows[::-1]
    assert old.kernel.memory.read(at + 24, 5) == b"\1\2\3\4\5"


def unwinding(bench: Bench, rows: Sequence[tuple[int, bytes]], missing: int = 0) -> tuple[Address, Address]:
    places = bench.sites(".orc_unwind_ip", [place for place, _ in rows])
    entries = bench.table(".orc_unwind", b"".join(entry for _, entry in rows[: len(rows) - missing]))
    return places, entries


def read_unwinding(bench: Bench, places: Address, entries: Address, count: int) -> list[tuple[int, bytes]]:
    memory = bench.kernel.memory
    return [(places + 4 * i + memory.s32(places + 4 * i), memory.read(entries + 6 * i, 6)) for i in range(count)]


STACK = bytes((8, 0, 0, 0, 0x05, 0x00)), bytes((16, 0, 0, 0, 0x05, 0x00)), bytes((24, 0, 0, 0, 0x05, 0x00))


def test_unwinding_entries_go_with_their_places(old: Bench) -> None:
    rows = [(TEXT + 32, STACK[0]), (TEXT + 8, STACK[1]), (TEXT + 16, STACK[2])]
    places, entries = unwinding(old, rows)
    assert old.run(orc.apply).counts == {"pass": 2}
    assert read_unwinding(old, places, entries, 3) == sorted(rows)
    assert old.run(orc.apply).counts == {}


@pytest.mark.parametrize("release", ["old", "new"])
def test_at_one_place_the_end_of_a_section_comes_first(request: pytest.FixtureRequest, release: str) -> None:
    """An entry that says nothing of the stack ends a section: sp_reg and end are 0 (type from 6.4)."""
    bench: Bench = request.getfixturevalue(release)
    lives = STACK[0] if release == "old" else bytes((8, 0, 0, 0, 0x05, 0x02))
    ends = bytes(6)
    places, entries = unwinding(bench, [(TEXT + 8, lives), (TEXT + 8, ends), (TEXT + 4, lives)])
    bench.run(orc.apply)
    assert read_unwinding(bench, places, entries, 3) == [(TEXT + 4, lives), (TEXT + 8, ends), (TEXT + 8, lives)]


def test_tables_of_unwinding_that_do_not_fit_together_are_told(old: Bench) -> None:
    rows = [(TEXT + 32, STACK[0]), (TEXT + 8, STACK[1]), (TEXT + 16, STACK[2])]
    places, entries = unwinding(old, rows, missing=1)
    context = old.run(orc.apply)
    assert len(context.warnings) == 1 and "do not fit together" in context.warnings[0]
    assert read_unwinding(old, places, entries, 2) == sorted(rows[:2])


def calls(bench: Bench, offsets: Sequence[int]) -> list[Address]:
    fentry = bench.kernel.kernel.symbol("__fentry__").address
    return [bench.put(offset, branch(CALL, TEXT + offset, fentry)) for offset in offsets]


def test_calls_of_ftrace_become_nops_in_a_sorted_table(old: Bench) -> None:
    first, second, third = calls(old, [0, 32, 64])
    unlisted = calls(old, [96])[0]
    before = old.code(unlisted, 5)
    at = old.table("__mcount_loc", struct.pack("<5Q", third, 0, first, 0, second))
    context = old.run(ftrace.apply)
    assert struct.unpack("<5Q", old.kernel.memory.read(at, 40)) == (0, 0, first, second, third)
    assert [old.code(place, 6) for place in (first, second, third)] == [NOP5.hex() + "cc"] * 3
    assert old.code(unlisted, 5) == before
    assert context.traced == (first, second, third) and context.warnings == []


def test_what_is_no_call_of_ftrace_stops_it(old: Bench) -> None:
    """ftrace_bug(): what comes behind it is left alone."""
    first, third = calls(old, [0, 64])
    other = old.put(32, branch(CALL, TEXT + 32, TEXT + 0x200))
    old.table("__mcount_loc", struct.pack("<3Q", first, other, third))
    context = old.run(ftrace.apply)
    assert old.code(first, 5) == NOP5.hex() and old.code(other, 1) == old.code(third, 1) == "e8"
    assert len(context.warnings) == 1 and "no call of __fentry__" in context.warnings[0]
    assert context.traced == (first,) and context.breaks_ftrace


@pytest.mark.parametrize("apply", [extable.apply, orc.apply, ftrace.apply])
def test_without_a_table_nothing_is_done(old: Bench, apply: Callable[..., None]) -> None:
    assert old.run(apply).counts == {} and old.kernel.memory.read(DATA, 64) == bytes(64)

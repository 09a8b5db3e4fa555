"""What follows keys: jump labels and static calls; and what follows the machine: paravirt calls and lock prefixes.

Of builder/load/passes/jump_label.py, builder/load/passes/static_call.py, builder/load/passes/paravirt.py,
builder/load/passes/smp_locks.py and builder/load/passes/context.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

from builder.binary import Address
from builder.errors import LoadError
from builder.image.boot import RETHUNK
from builder.load.passes import PASSES, jump_label, paravirt, smp_locks, static_call
from builder.load.passes.context import CALL, JMP32, NOP5, NOPS, branch, fill, opcode_at, wrap32
from tests.load.passes.conftest import TEXT, Bench, Make
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel


def labels(rows: Sequence[tuple[int, int, int, int]]) -> Callable[[Address], bytes]:
    """(code, target, key, flags) of each."""

    def made(at: Address) -> bytes:
        return b"".join(
            struct.pack("<iiq", code - at - 16 * i, target - at - 16 * i - 4, (key | flags) - at - 16 * i - 8)
            for i, (code, target, key, flags) in enumerate(rows)
        )

    return made


def read_labels(bench: Bench, at: Address, count: int) -> list[tuple[int, int, int]]:
    out = []
    for here in map(Address, range(at, at + 16 * count, 16)):
        code, target, key = struct.unpack("<iiq", bench.kernel.memory.read(here, 16))
        out.append((here + code, here + 4 + target, here + 8 + key))
    return out


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("flag", [0, jump_label.BRANCH])
def test_a_branch_is_taken_where_its_key_says_so(old: Bench, count: int, flag: int) -> None:
    key = old.data(struct.pack("<i", count))
    near, far = old.put(0, "eb20"), old.put(0x10, branch(JMP32, TEXT + 0x10, TEXT + 0x200))
    off_near, off_far = old.put(0x40, NOPS[2]), old.put(0x50, NOP5)
    rows = [(near, near + 0x22, key, flag), (far, TEXT + 0x200, key, flag), (off_near, TEXT + 0x60, key, flag),
            (off_far, TEXT + 0x400, key, flag)]  # fmt: skip
    old.table("__jump_table", labels(rows))
    context = old.run(jump_label.apply)
    taken = bool(count) != bool(flag)
    expected = (
        ["eb20", branch(JMP32, far, TEXT + 0x200).hex(), "eb1e", branch(JMP32, off_far, TEXT + 0x400).hex()]
        if taken
        else ["6690", NOP5.hex(), "6690", NOP5.hex()]
    )
    assert [old.code(place, len(code) // 2) for (place, *_), code in zip(rows, expected, strict=True)] == expected
    assert context.warnings == [] and context.counts == {"pass": 2}


def test_jump_labels_are_sorted_by_key_then_code(old: Bench) -> None:
    first, second = old.data(bytes(4)), old.data(bytes(4))
    places = [old.put(0x10 * i, NOP5) for i in range(3)]
    rows = [
        (places[2], TEXT + 0x100, second, 0),
        (places[1], TEXT + 0x110, first, 1),
        (places[0], TEXT + 0x120, first, 0),
    ]
    at = old.table("__jump_table", labels(rows))
    old.run(jump_label.apply)
    assert read_labels(old, at, 3) == [
        (places[0], TEXT + 0x120, first), (places[1], TEXT + 0x110, first | 1), (places[2], TEXT + 0x100, second)
    ]  # fmt: skip


@pytest.mark.parametrize("code", ["31c031c031", "e800000000", "0f1f4000cc"])
def test_what_is_neither_jump_nor_nop_is_left_and_told(old: Bench, code: str) -> None:
    key = old.data(struct.pack("<i", 1))
    place, good = old.put(0, code), old.put(0x20, NOP5)
    old.table("__jump_table", labels([(place, TEXT + 0x80, key, 0), (good, TEXT + 0x200, key, 0)]))
    context = old.run(jump_label.apply)
    assert old.code(place, 5) == code and old.code(good, 1) == "e9"
    assert len(context.warnings) == 1 and "unexpected op" in context.warnings[0]


def test_a_jump_that_leads_elsewhere_is_left_and_told(old: Bench) -> None:
    key = old.data(bytes(4))
    place = old.put(0, branch(JMP32, TEXT, TEXT + 0x300))
    old.table("__jump_table", labels([(place, TEXT + 0x200, key, 0)]))
    context = old.run(jump_label.apply)
    assert old.code(place, 5) == branch(JMP32, place, TEXT + 0x300).hex() and len(context.warnings) == 1


def calls(rows: Sequence[tuple[int, int, int]]) -> Callable[[Address], bytes]:
    """(code, key, flags) of each."""

    def made(at: Address) -> bytes:
        return b"".join(
            struct.pack("<ii", code - at - 8 * i, (key | flags) - at - 8 * i - 4)
            for i, (code, key, flags) in enumerate(rows)
        )

    return made


@pytest.fixture
def plain(bench: Make, release_61: str) -> Bench:
    """Returns need no thunk."""
    return bench(release_61, lacks=(RETHUNK,))


XOR5RAX = bytes.fromhex("2e2e2e31c0")


def key(bench: Bench, target: Address) -> int:
    return bench.data(struct.pack("<QQ", target, 0))


@pytest.mark.parametrize("before", ["call", "nop", "xor"])
@pytest.mark.parametrize("target", ["function", "nothing", "zero"])
def test_a_static_call_goes_where_its_key_says(plain: Bench, before: str, target: str) -> None:
    zero = plain.kernel.kernel.symbol("__static_call_return0").address
    goes = {"function": TEXT + 0x300, "nothing": Address(0), "zero": zero}[target]
    code = {"call": branch(CALL, TEXT, TEXT + 0x500), "nop": NOP5, "xor": XOR5RAX}[before]
    place = plain.put(0, code + b"\xc3")
    plain.table(".static_call_sites", calls([(place, key(plain, goes), 0)]))
    context = plain.run(static_call.apply)
    expected = {"function": branch(CALL, place, TEXT + 0x300), "nothing": NOP5, "zero": XOR5RAX}[target]
    assert plain.code(place, 6) == expected.hex() + "c3" and context.warnings == []


@pytest.mark.parametrize(("target", "code"), [(0x300, branch(JMP32, TEXT, TEXT + 0x300).hex()), (0, "c3cccccccc")])
@pytest.mark.parametrize("before", ["e911111111", "c3cccccccc"])
def test_a_static_call_at_the_end_is_a_jump_or_a_return(plain: Bench, before: str, target: int, code: str) -> None:
    place = plain.put(0, before)
    plain.table(
        ".static_call_sites", calls([(place, key(plain, TEXT + target if target else Address(0)), static_call.TAIL)])
    )
    plain.run(static_call.apply)
    assert plain.code(place, 5) == code


@pytest.mark.parametrize(
    ("code", "flags"), [("31c031c031c0", 0), ("e91111111190", 0), ("e81111111190", static_call.TAIL)]
)
def test_what_is_no_static_call_is_left_and_told(plain: Bench, code: str, flags: int) -> None:
    place, good = plain.put(0, code), plain.put(0x20, NOP5)
    where = key(plain, TEXT + 0x300)
    plain.table(".static_call_sites", calls([(place, where, flags), (good, where, 0)]))
    context = plain.run(static_call.apply)
    assert plain.code(place, 6) == code and plain.code(good, 5) == branch(CALL, good, TEXT + 0x300).hex()
    assert len(context.warnings) == 1 and "unexpected static_call insn opcode" in context.warnings[0]


def test_static_calls_are_sorted_by_key_and_each_keeps_its_own(plain: Bench) -> None:
    first, second = key(plain, TEXT + 0x300), key(plain, TEXT + 0x380)
    one, two = plain.put(0, NOP5), plain.put(0x20, "e911111111")
    at = plain.table(".static_call_sites", calls([(two, second, static_call.TAIL), (one, first, 0)]))
    plain.run(static_call.apply)
    memory = plain.kernel.memory
    rows = [(at + 8 * i + memory.s32(at + 8 * i), at + 8 * i + 4 + memory.s32(at + 8 * i + 4)) for i in range(2)]
    assert rows == [(one, first), (two, second | static_call.TAIL)]
    assert plain.code(one, 5) == branch(CALL, one, TEXT + 0x300).hex()
    assert plain.code(two, 5) == branch(JMP32, two, TEXT + 0x380).hex()


def patch_site(address: Address, kind: int, length: int) -> bytes:
    return struct.pack("<QBB6x", address, kind, length)


@pytest.mark.parametrize("length", [5, 6, 7])
def test_a_paravirt_call_is_direct_and_of_its_length(old: Bench, length: int) -> None:
    operations = old.kernel.state.pv_ops
    nop = old.kernel.kernel.symbol("_paravirt_nop").address
    kind = next(i for i, target in enumerate(operations) if target not in (0, nop))
    place = old.put(0, b"\xff\x14\x25" + bytes(length - 3) + b"\xc3")
    other = old.put(0x40, "ff1425000000c3")
    old.table(".parainstructions", patch_site(place, kind, length))
    old.run(paravirt.apply)
    expected = branch(CALL, place, operations[kind]) + fill(length - 5, 8) + b"\xc3"
    assert old.code(place, length + 1) == expected.hex() and old.code(other, 7) == "ff1425000000c3"


def test_a_paravirt_call_of_nothing_is_gone_and_one_of_no_operation_is_a_bug(old: Bench) -> None:
    operations, symbol = old.kernel.state.pv_ops, old.kernel.kernel.symbol
    kind = operations.index(symbol("_paravirt_nop").address)
    nothing, unknown = old.put(0, "ff142500000000c3"), old.put(0x40, "ff142500000000c3")
    old.table(".parainstructions", patch_site(nothing, kind, 7) + patch_site(unknown, 255, 7))
    old.run(paravirt.apply)
    assert old.code(nothing, 8) == NOPS[7].hex() + "c3"
    assert old.code(unknown, 5) == branch(CALL, unknown, symbol("paravirt_BUG").address).hex()


@pytest.mark.parametrize("uniproc", [0, 1])
def test_lock_prefixes_go_where_there_is_one_processor(bench: Make, release_61: str, uniproc: int) -> None:
    made = bench(release_61, uniproc=uniproc)
    listed, other, beyond, unlocked = (
        made.put(at, code) for at, code in ((0, "f0ff00"), (16, "f0ff00"), (0x800, "f0ff00"), (32, "ff00c3"))
    )
    made.sites(".smp_locks", [listed, beyond, unlocked])
    made.run(smp_locks.apply, (TEXT, TEXT + 0x400))
    assert made.code(listed, 3) == ("3eff00" if uniproc else "f0ff00")
    assert [made.code(at, 3) for at in (other, beyond, unlocked)] == ["f0ff00", "f0ff00", "ff00c3"]


def test_what_is_written_is_counted_and_kept(old: Bench) -> None:
    """Each site with what was there before; outside of memory nothing can be written."""
    place = old.put(0, "f0ff00")
    context = old.run(lambda context: context.poke(place, b"\x3e"))
    assert context.counts == {"pass": 1}
    ((step, address, before, after),) = ((s.step, s.address, s.old, s.new) for s in context.sites)
    assert (step, address, before, after) == ("pass", place, b"\xf0", b"\x3e")
    with pytest.raises(LoadError, match="not mapped"):
        context.poke(TEXT - 0x100000, b"\x90")


def test_forms_of_instructions() -> None:
    assert [len(nop) for nop in NOPS] == list(range(12))
    assert fill(0, 8) == b"" and fill(19, 8) == NOPS[8] * 2 + NOPS[3] and fill(19, 11) == NOPS[11] + NOPS[8]
    assert opcode_at(bytes.fromhex("2e410fb6")) == (0x0F, 2)
    with pytest.raises(LoadError, match="no instruction"):
        opcode_at(b"\x66\x66")
    assert [wrap32(value) for value in (5, -5, 1 << 31, (1 << 32) + 7)] == [5, -5, -(1 << 31), 7]


@pytest.mark.parametrize(
    ("series", "lacks"),
    [
        ("release_61", {"callthunks", "apply_seal_endbr"}),
        ("release_612", {"apply_paravirt"}),
        ("release_7", {"apply_paravirt"}),
    ],
)
def test_each_kernel_has_its_own_passes(request: pytest.FixtureRequest, series: str, lacks: set[str]) -> None:
    features = opened(request.getfixturevalue(series)).features
    assert {row.name for row in PASSES} - {row.name for row in PASSES if row.applies(features)} == lacks

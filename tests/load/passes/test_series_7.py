"""What the loader of series 7 does otherwise than that of 6.12, each told by the image itself.

Of builder/load/passes/, builder/image/facts.py, builder/image/execute.py and builder/load/layout.py.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary import Address
from builder.binary.module import ModuleFile
from builder.image.boot import CALL_DEPTH, RETHUNK, RETPOLINE, RETPOLINE_LFENCE
from builder.load.layout import lay_out
from builder.load.passes import PASSES, alternatives, ibt, retpolines, static_call
from builder.load.passes.context import CALL, JMP32, NOPS, branch
from builder.load.passes.decode import instructions
from tests.load.passes.conftest import TEXT, Bench, Make
from tests.load.passes.test_alternatives import MISSING, NOT, OTHER, THERE, applied
from tests.load.passes.test_keys import calls, key
from tests.support.kernels import booted, opened

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(("series", "poison"), [("new", "660f1f00"), ("newest", "0f1f40d6")])
def test_a_sealed_entry(request: pytest.FixtureRequest, series: str, poison: str) -> None:
    """Also one that was sealed before."""
    bench: Bench = request.getfixturevalue(series)
    places = [bench.put(0, "f30f1efa"), bench.put(0x10, poison), bench.put(0x20, "90909090")]
    bench.sites(".ibt_endbr_seal", places)
    warnings = bench.run(ibt.apply).warnings
    assert [bench.code(place, 4) for place in places] == [poison, poison, "90909090"] and len(warnings) == 1


@pytest.mark.parametrize(
    ("register", "call", "jump"), [(0, "ffd00f1f4000", "ffe0cccccc"), (11, "2e2e2e41ffd3", "41ffe3cccccc")]
)
def test_a_branch_fills_its_room(bench: Make, release_7: str, register: int, call: str, jump: str) -> None:
    """With prefixes before the call, where they are three at most, and INT3 behind a jump."""
    plain = bench(release_7, lacks=(RETPOLINE, RETPOLINE_LFENCE, RETHUNK, CALL_DEPTH))
    target = plain.kernel.kernel.symbol("__x86_indirect_thunk_array").address + 32 * register
    first = plain.put(0x20, b"\x2e" + branch(CALL, TEXT + 0x21, target))
    prefix = b"\x2e" if register >= 8 else b""
    second = plain.put(0x60, prefix + branch(JMP32, TEXT + 0x60 + len(prefix), target))
    plain.sites(".retpoline_sites", [first, second])
    assert plain.run(retpolines.apply).warnings == []
    assert (plain.code(first, 6), plain.code(second, len(jump) // 2)) == (call, jump)


def test_who_fills_branches(release_612: str, release_7: str) -> None:
    """Asked of the kernel's own code; to 6.17 a NOP stood behind the call."""
    assert [retpolines.fills_branches(opened(release)) for release in (release_612, release_7)] == [False, True]


def test_the_last_alternative_of_a_site_is_written_once(bench: Make, release_7: str) -> None:
    made = bench(release_7, has=(THERE,), lacks=(MISSING,))
    site = made.put(0, "4801d0" + "90" * 4 + "c3")
    one, two = made.put(OTHER, "4829d0"), made.put(OTHER + 0x10, "4831d04889c0")
    rows = [(site, one, THERE, 0, 3, 3), (site, two, MISSING, NOT, 7, 6), (site, one, MISSING, 0, 3, 3)]
    assert applied(made, *rows) == []
    # The longest entry gives the length; `mov %rax,%rax` is a NOP here, and one with the byte of padding.
    assert made.code(site, 8) == "4831d0" + NOPS[4].hex() + "c3"
    assert [made.kernel.memory.u8(made.tables[".altinstructions"].address + 14 * i + 12) for i in range(3)] == [3, 7, 3]


def test_a_site_without_an_alternative_has_its_nops_made_one(bench: Make, release_7: str) -> None:
    made = bench(release_7, has=(THERE,), lacks=(MISSING,))
    site, other = made.put(0, "90" * 5 + "c3"), made.put(OTHER, "4829d0")
    assert applied(made, (site, other, MISSING, 0, 5, 3)) == []
    assert made.code(site, 6) == NOPS[5].hex() + "c3"


@pytest.mark.parametrize(
    ("code", "nop"),
    [("90", True), ("f390", False), ("4190", False), ("0f1f4000", True), ("4889c0", True), ("4d89ff", True),
     ("4889c8", False), ("6689c0", False), ("89c0", False), ("488d642400", True), ("3e488d7600", True),
     ("2e488d7600", False), ("488d00", False), ("488d4001", False), ("488d4100", False), ("67488d4000", False),
     ("eb00", True), ("eb01", False), ("e900000000", True), ("e800000000", False), ("c3", False)],
)  # fmt: skip
def test_what_counts_as_a_nop(code: str, nop: bool) -> None:
    ((_, instruction, _),) = instructions(bytes.fromhex(code))
    assert alternatives.does_nothing(bytes.fromhex(code), instruction) is nop


def test_a_call_that_warns_is_a_trap(bench: Make, release_7: str) -> None:
    """`ud1 (%edx),%rdi` for __WARN_trap, which the exception handler knows."""
    plain = bench(release_7, lacks=(RETHUNK,))
    symbol = plain.kernel.kernel.symbol
    place = plain.put(0, branch(CALL, TEXT, symbol("__SCT__WARN_trap").address) + b"\xc3")
    plain.table(".static_call_sites", calls([(place, key(plain, symbol("__WARN_trap").address), 0)]))
    assert plain.run(static_call.apply).warnings == []
    assert plain.code(place, 6) == "67480fb93ac3"


def test_calls_are_counted_before_alternatives_are_chosen(release_612: str, release_7: str) -> None:
    def order(release: str) -> list[str]:
        features = opened(release).features
        return [
            row.name for row in PASSES if row.applies(features) and row.name in ("callthunks", "apply_alternatives")
        ]

    assert order(release_612) == ["apply_alternatives", "callthunks"]
    assert order(release_7) == ["callthunks", "apply_alternatives"]


def test_tables_of_static_calls_are_read_only_after_init(release_612: str, release_7: str) -> None:
    """In a module of the kernel's own that has one."""
    kernel = opened(release_7)
    path = kernel.find_module("kvm")
    assert path is not None
    module = ModuleFile.read(Path(path))
    section = module.find(".static_call_sites")
    assert section is not None
    kinds = [lay_out(module, opened(r).features).places[section.index][2] for r in (release_612, release_7)]
    assert kinds == ["data", "ro_after_init"]


def test_which_bit_its_is(release_61: str, release_612: str, release_7: str) -> None:
    """The alternative in its_init_mod asks for it."""
    bits = []
    for release in (release_61, release_612, release_7):
        facts = booted(release, "max").facts
        every = replace(facts.state, capabilities=(0xFFFFFFFF,) * 24)
        asked = [
            number
            for number in range(21 * 32, 22 * 32)
            if replace(facts, state=replace(every, capabilities=(*[0] * 21, 1 << number % 32, 0, 0))).has_its
        ]
        bits.append([number - 21 * 32 for number in asked])
    assert bits == [[5], [6], [10]]


def test_per_cpu_variables_are_where_they_were_linked(release_7: str) -> None:
    """A function that reads one reads the template's copy."""
    kernel = booted(release_7, "max")
    start = kernel.kernel.symbol("__per_cpu_start").address
    assert start
    variable = kernel.kernel.symbol("cpu_number").address
    offset = variable - start
    region = next(region for region in kernel.memory if region.name == "percpu[0]")
    region.data[offset : offset + 4] = struct.pack("<I", 0x1234)
    code = b"\x65\x8b\x04\x25" + struct.pack("<i", variable - (1 << 64)) + b"\xc3"
    at = kernel.execution.heap.put(code)
    try:
        assert kernel.call(Address(at)).int32 == 0x1234
    finally:
        region.data[offset : offset + 4] = kernel.memory.read(variable, 4)

"""apply_alternatives: what is chosen, what stays, and how operands and NOPs follow.

Of builder/load/passes/alternatives.py (and builder/load/passes/decode.py), in both forms of struct alt_instr.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest

from builder.binary import Address
from builder.load.passes import alternatives
from builder.load.passes.context import CALL, JMP32, branch
from builder.load.passes.decode import instructions, length
from tests.load.passes.conftest import TEXT, Bench, Make

pytestmark = pytest.mark.kernel

THERE, MISSING = 3 * 32 + 5, 3 * 32 + 6
"""Two bits of features that nothing else here asks for: set and not."""
INVERTED, NOT, DIRECT_CALL = 1 << 15, 1, 2
OTHER = 0x800
"""Where replacements are put."""

Row = tuple[int, int, int, int, int, int]
"""Site, replacement, feature, flags, and the length of each."""


def entries(bench: Bench, rows: Sequence[Row]) -> Callable[[Address], bytes]:
    def made(at: Address) -> bytes:
        out = b""
        for site, other, feature, flags, size, other_size in rows:
            here = at + len(out)
            if bench.kernel.facts.alternative_size == 12:
                out += struct.pack("<iiHBB", site - here, other - here - 4, feature | flags, size, other_size)
            else:
                out += struct.pack("<iiHHBB", site - here, other - here - 4, feature, flags, size, other_size)
        return out

    return made


def applied(bench: Bench, *rows: Row) -> list[str]:
    """What the pass warns of."""
    bench.table(".altinstructions", entries(bench, rows))
    return bench.run(alternatives.apply).warnings


@pytest.fixture(params=["6.1", "6.12"])
def made(request: pytest.FixtureRequest, bench: Make) -> Bench:
    release = request.getfixturevalue(f"release_{request.param.replace('.', '')}")
    return bench(release, has=(THERE,), lacks=(MISSING,))


@pytest.fixture
def new_kernel(bench: Make, release_612: str) -> Bench:
    return bench(release_612, has=(THERE,), lacks=(MISSING,))


@pytest.fixture
def old_kernel(bench: Make, release_61: str) -> Bench:
    return bench(release_61, has=(THERE,), lacks=(MISSING,))


def negation(bench: Bench) -> int:
    return INVERTED if bench.kernel.facts.alternative_size == 12 else NOT


@pytest.mark.parametrize(("feature", "negated"), [(THERE, False), (MISSING, True), (THERE, True), (MISSING, False)])
def test_the_replacement_is_taken_where_the_processor_has_the_feature(made: Bench, feature: int, negated: bool) -> None:
    site, other = made.put(0, "0fa2 31c0 31db c3"), made.put(OTHER, "31d2 31f6 31ff")
    warnings = applied(made, (site, other, feature, negation(made) if negated else 0, 6, 6))
    assert made.code(site, 7) == ("31d231f631ff" if (feature == THERE) != negated else "0fa231c031db") + "c3"
    assert warnings == [] and made.code(other, 6) == "31d231f631ff"


def test_what_is_shorter_is_filled_and_what_stands_behind_is_not(made: Bench) -> None:
    site, other = made.put(0, "0fa2 31c0 31db 9090"), made.put(OTHER, "31d2")
    applied(made, (site, other, THERE, 0, 6, 2))
    assert made.code(site, 8) == "31d2" + "0f1f4000" + "9090"


def test_nothing_as_a_replacement_is_a_nop_of_full_length(made: Bench) -> None:
    site = made.put(0, "0fa2 31c0 31db c3")
    applied(made, (site, made.put(OTHER, ""), THERE, 0, 6, 0))
    assert made.code(site, 7) == "660f1f440000" + "c3"


def test_what_stays_has_its_nops_made_longer(made: Bench) -> None:
    site, other = made.put(0, "31c0 90909090 31db 90 c3"), made.put(OTHER, "31d2")
    applied(made, (site, other, MISSING, 0, 9, 2))
    assert made.code(site, 10) == "31c0" + "0f1f4000" + "31db90c3"


def test_a_call_leads_where_it_led(made: Bench) -> None:
    target = TEXT + 0x400
    site, other = made.put(0x80, "90" * 5 + "c3"), made.put(OTHER, branch(CALL, TEXT + OTHER, target))
    applied(made, (site, other, THERE, 0, 5, 5))
    assert made.code(site, 6) == branch(CALL, site, target).hex() + "c3"


@pytest.mark.parametrize(("distance", "short"), [(0x20, True), (0x81, True), (0x82, False), (0x400, False)])
def test_a_jump_is_short_where_it_is_near(made: Bench, distance: int, short: bool) -> None:
    site = made.put(0x80, "90" * 5 + "c3")
    other = made.put(OTHER, branch(JMP32, TEXT + OTHER, site + distance))
    applied(made, (site, other, THERE, 0, 5, 5))
    code = made.code(site, 6)
    if short:
        assert code[:4] == f"eb{distance - 2:02x}" and code[-2:] == "c3"
    else:
        assert code == branch(JMP32, site, site + distance).hex() + "c3"


def test_a_later_entry_for_one_place_has_the_last_word(made: Bench) -> None:
    site = made.put(0, "0fa2 c3")
    first, second = made.put(OTHER, "31d2"), made.put(OTHER + 16, "31f6")
    applied(made, (site, first, THERE, 0, 2, 2), (site, second, THERE, 0, 2, 2))
    assert made.code(site, 3) == "31f6c3"


def test_a_later_entry_that_is_not_taken_changes_nothing(made: Bench) -> None:
    site = made.put(0, "0fa2 c3")
    first, second = made.put(OTHER, "31d2"), made.put(OTHER + 16, "31f6")
    applied(made, (site, first, THERE, 0, 2, 2), (site, second, MISSING, 0, 2, 2))
    assert made.code(site, 3) == "31d2c3"


def test_an_operand_relative_to_the_replacement_follows(new_kernel: Bench) -> None:
    """6.12 corrects each of them, 6.1 a leading call or jump alone."""
    variable = TEXT + 0x900
    load = b"\x48\x8b\x05" + struct.pack("<i", variable - (TEXT + OTHER + 2) - 7)
    site, other = new_kernel.put(0x80, "90" * 9 + "c3"), new_kernel.put(OTHER, b"\x31\xd2" + load)
    applied(new_kernel, (site, other, THERE, 0, 9, 9))
    expected = b"\x31\xd2\x48\x8b\x05" + struct.pack("<i", variable - (site + 2) - 7)
    assert new_kernel.code(site, 10) == expected.hex() + "c3"


def test_an_operand_that_leads_inside_the_replacement_stays(new_kernel: Bench) -> None:
    site, other = new_kernel.put(0x80, "90" * 6 + "c3"), new_kernel.put(OTHER, "7402 31d2 31f6")
    applied(new_kernel, (site, other, THERE, 0, 6, 6))
    assert new_kernel.code(site, 7) == "740231d231f6c3"


def test_only_a_leading_branch_follows_in_the_old_form(old_kernel: Bench) -> None:
    call = branch(CALL, TEXT + OTHER + 2, TEXT + 0x400)
    site, other = old_kernel.put(0x80, "90" * 7 + "c3"), old_kernel.put(OTHER, b"\x31\xd2" + call)
    applied(old_kernel, (site, other, THERE, 0, 7, 7))
    assert old_kernel.code(site, 8) == "31d2" + call.hex() + "c3"


def test_nested_alternatives_are_all_as_long_as_the_longest(new_kernel: Bench) -> None:
    """And their entries say so afterwards."""
    site = new_kernel.put(0, "0fa2 90909090 c3")
    first, second = new_kernel.put(OTHER, "31d2"), new_kernel.put(OTHER + 16, "31f6 31ff 31c9")
    at = new_kernel.table(
        ".altinstructions", entries(new_kernel, [(site, first, THERE, 0, 2, 2), (site, second, MISSING, 0, 6, 6)])
    )
    new_kernel.run(alternatives.apply)
    assert [new_kernel.kernel.memory.u8(at + 14 * i + 12) for i in range(2)] == [6, 6]
    assert new_kernel.code(site, 7) == "31d2" + "0f1f4000" + "c3"


def test_a_direct_call_is_of_what_the_pointer_holds(new_kernel: Bench) -> None:
    bug = new_kernel.kernel.kernel.symbol("BUG_func").address
    pointer = new_kernel.data(struct.pack("<Q", TEXT + 0x500))
    site = new_kernel.put(0x80, b"\xff\x15" + struct.pack("<i", pointer - (TEXT + 0x86)) + b"\xc3")
    other = new_kernel.put(OTHER, branch(CALL, TEXT + OTHER, bug))
    assert applied(new_kernel, (site, other, THERE, DIRECT_CALL, 6, 5)) == []
    assert new_kernel.code(site, 7) == branch(CALL, site, TEXT + 0x500).hex() + "90c3"


@pytest.mark.parametrize("original", ["ff25", "e800"])
def test_a_direct_call_in_place_of_something_else_is_told(new_kernel: Bench, original: str) -> None:
    site = new_kernel.put(0x80, original + "00000000 c3")
    other = new_kernel.put(OTHER, branch(CALL, TEXT + OTHER, TEXT + 0x400))
    (warning,) = applied(new_kernel, (site, other, THERE, DIRECT_CALL, 6, 5))
    assert "unrecognized call" in warning and new_kernel.code(site + 6, 1) == "c3"


def test_code_is_told_apart_by_instruction() -> None:
    assert [length(bytes.fromhex(code)) for code in ("90", "0fb9cc", "48b8" + "11" * 8, "e800000000", "0f")] == [
        1,
        3,
        10,
        5,
        0,
    ]
    found = [(at, insn.len) for at, insn, _ in instructions(bytes.fromhex("31d2 e800000000 c3 0f"))]
    assert found == [(0, 2), (2, 5), (7, 1)]

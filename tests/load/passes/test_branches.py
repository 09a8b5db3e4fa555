"""Branches that go where the machine's defects want them: thunks of indirect branches and of returns.

Of builder/load/passes/retpolines.py, builder/load/passes/returns.py, builder/load/passes/its.py,
builder/load/passes/callthunks.py and builder/load/passes/ibt.py.
"""

from __future__ import annotations

import pytest

from builder.binary import Address
from builder.errors import LoadError
from builder.image.boot import CALL_DEPTH, RETHUNK, RETPOLINE, RETPOLINE_LFENCE
from builder.load.passes import callthunks, ibt, retpolines, returns
from builder.load.passes.context import CALL, JMP32, branch
from builder.load.passes.its import allocate_thunk
from tests.load.passes.conftest import TEXT, Bench, Make
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel

UPPER, LOWER = 0x20, 0x40
"""Offsets in the upper and at the begin of the lower half of a cache line."""
ITS = 21 * 32 + 5
"""X86_FEATURE_INDIRECT_THUNK_ITS of 6.1"""


@pytest.fixture
def plain(bench: Make, release_61: str) -> Bench:
    """No defect: indirect branches stay what they are."""
    return bench(release_61, lacks=(RETPOLINE, RETPOLINE_LFENCE, RETHUNK, ITS))


def thunk(bench: Bench, register: int) -> Address:
    return bench.kernel.kernel.symbol("__x86_indirect_thunk_array").address + 32 * register


def site(bench: Bench, kind: str, register: int, offset: int = UPPER) -> Address:
    """A branch to the thunk of a register, as the compiler writes it (`cs` in front of those of r8 to r15)."""
    at, target = TEXT + offset, thunk(bench, register)
    if kind == "je":
        return bench.put(offset, b"\x0f" + branch(0x84, at + 1, target))
    prefix = b"\x2e" if register >= 8 else b""
    return bench.put(offset, prefix + branch(CALL if kind == "call" else JMP32, at + len(prefix), target))


@pytest.mark.parametrize(
    ("kind", "register", "becomes"),
    [
        ("call", 0, "ffd0 0f1f00 cc"),
        ("call", 7, "ffd7 0f1f00 cc"),
        ("call", 9, "41ffd1 0f1f00 cc"),
        ("jmp", 3, "ffe3 cc 6690 cc"),
        ("jmp", 15, "41ffe7 cc 6690 cc"),
        ("je", 2, "7504 ffe2 cc 90 cc"),
    ],
)
def test_an_indirect_branch_becomes_itself(plain: Bench, kind: str, register: int, becomes: str) -> None:
    expected = becomes.replace(" ", "")
    place = site(plain, kind, register)
    plain.sites(".retpoline_sites", [place])
    context = plain.run(retpolines.apply)
    assert plain.code(place, len(expected) // 2) == expected and context.warnings == []


def test_behind_a_fence_where_that_is_the_mitigation(bench: Make, release_61: str) -> None:
    made = bench(release_61, has=(RETPOLINE, RETPOLINE_LFENCE), lacks=(ITS,))
    places = site(made, "call", 1), site(made, "call", 8, LOWER)
    made.sites(".retpoline_sites", places)
    made.run(retpolines.apply)
    assert [made.code(place, 7) for place in places] == ["0faee8ffd1cccc", "0faee841ffd0cc"]


def test_with_retpolines_they_stay(bench: Make, release_61: str) -> None:
    made = bench(release_61, has=(RETPOLINE,), lacks=(RETPOLINE_LFENCE,))
    place = site(made, "call", 1)
    before = made.code(place, 6)
    made.sites(".retpoline_sites", [place])
    assert made.run(retpolines.apply).counts == {} and made.code(place, 6) == before


@pytest.mark.parametrize("what", ["another function", "the stack pointer", "between two thunks", "no branch"])
def test_what_is_no_branch_to_a_thunk_is_left_and_told(plain: Bench, what: str) -> None:
    targets = {
        "another function": TEXT + 0x400,
        "the stack pointer": thunk(plain, 4),
        "between two thunks": thunk(plain, 1) + 8,
    }
    place = plain.put(UPPER, branch(CALL, TEXT + UPPER, targets[what]) if what in targets else "4889e54889e5")
    before, good = plain.code(place, 6), site(plain, "call", 0, 0x120)
    plain.sites(".retpoline_sites", [place, good])
    context = plain.run(retpolines.apply)
    assert plain.code(place, 6) == before and plain.code(good, 2) == "ffd0"
    assert len(context.warnings) == 1


def test_a_branch_in_the_lower_half_of_a_line_goes_through_a_thunk_of_its_own(bench: Make, release_61: str) -> None:
    made = bench(release_61, has=(ITS,), lacks=(RETPOLINE, RETPOLINE_LFENCE))
    assert made.kernel.facts.has_its
    lower, upper, wide = site(made, "call", 0, LOWER), site(made, "call", 0, UPPER), site(made, "jmp", 9, LOWER + 0x80)
    made.sites(".retpoline_sites", [lower, upper, wide])
    context = made.run(retpolines.apply)
    assert made.code(upper, 2) == "ffd0"
    for place, length, code in ((lower, 5, "ffe0cc"), (wide, 6, "41ffe1cc")):
        target = place + length + made.kernel.memory.s32(place + length - 4)
        assert target & 0x20 and made.code(target, len(code) // 2) == code
        assert context.its_page is not None and context.its_page.base <= target < context.its_page.end


def test_thunks_fill_the_upper_halves_of_their_pages(bench: Make, release_61: str) -> None:
    context = bench(release_61, has=(ITS,)).run(lambda context: None)
    places = [allocate_thunk(context, number % 16) for number in range(1200)]
    assert len(set(places)) == 1200 and len(context.its_pages) > 1
    for number, place in enumerate(places):
        size = 3 + (number % 16) // 8
        assert place & 0x20 and (place + size - 1) & 0x20 and place % 4096 + size <= 4096


def ret(bench: Bench, offset: int) -> Address:
    address = bench.kernel.kernel.symbol("__x86_return_thunk").address
    return bench.put(offset, branch(JMP32, TEXT + offset, address))


def test_returns_are_returns_where_no_thunk_is_needed(plain: Bench) -> None:
    listed, other = ret(plain, 0), ret(plain, 0x40)
    before = plain.code(other, 5)
    plain.sites(".return_sites", [listed])
    plain.run(returns.apply)
    assert plain.code(listed, 5) == "c3cccccccc" and plain.code(other, 5) == before


def test_returns_go_to_the_thunk_that_was_chosen(bench: Make, release_61: str) -> None:
    made = bench(release_61, has=(RETHUNK,), return_thunk=TEXT + 0x800)
    place = ret(made, 0x40)
    made.sites(".return_sites", [place])
    made.run(returns.apply)
    assert made.code(place, 5) == branch(JMP32, place, TEXT + 0x800).hex()


def test_with_its_a_return_in_the_upper_half_of_a_line_is_plain(bench: Make, release_61: str) -> None:
    target = opened(release_61).symbol("its_return_thunk").address
    made = bench(release_61, has=(RETHUNK,), return_thunk=target)
    lower, upper = ret(made, 0x40), ret(made, 0x60)
    made.sites(".return_sites", [lower, upper])
    made.run(returns.apply)
    assert made.code(lower, 5) == branch(JMP32, lower, target).hex() and made.code(upper, 5) == "c3cccccccc"


@pytest.mark.parametrize("code", ["c3cccccccc", "e900000000", "9090909090"])
def test_a_site_without_a_return_thunk_is_left_and_told(plain: Bench, code: str) -> None:
    place, good = plain.put(0, code), ret(plain, 0x40)
    plain.sites(".return_sites", [place, good])
    context = plain.run(returns.apply)
    assert plain.code(place, 5) == code and plain.code(good, 1) == "c3"
    assert len(context.warnings) == 1 and "missing return thunk" in context.warnings[0]


def test_a_site_outside_of_memory_is_told(plain: Bench) -> None:
    plain.sites(".return_sites", [TEXT - 0x100000, ret(plain, 0)])
    context = plain.run(returns.apply)
    assert len(context.warnings) == 1 and "outside all memory" in context.warnings[0]
    assert plain.code(TEXT, 1) == "c3"


@pytest.mark.parametrize(("code", "written"), [("c3cccccccc", True), ("e912345678", False)])
def test_a_static_call_s_trampoline_only_where_it_returns(
    bench: Make, release_61: str, code: str, written: bool
) -> None:
    """Behind each trampoline stands `ud1 %esp, %ecx`."""
    made = bench(release_61, has=(RETHUNK,), return_thunk=TEXT + 0x800)
    place = made.put(0, code + "0fb9cc")
    made.sites(".return_sites", [place])
    context = made.run(returns.apply)
    assert made.code(place, 5) == (branch(JMP32, place, TEXT + 0x800).hex() if written else code)
    assert context.warnings == [] and made.code(place + 5, 3) == "0fb9cc"


@pytest.fixture
def counted(bench: Make, release_612: str) -> Bench:
    """A kernel that tracks the depth of calls."""
    return bench(release_612, has=(CALL_DEPTH, RETPOLINE))


def test_calls_go_to_the_stub_in_the_padding_before_a_function(counted: Bench) -> None:
    kernel = counted.kernel.kernel
    size = kernel.symbol("skl_call_thunk_tail").address - kernel.symbol("skl_call_thunk_template").address
    counted.put(0x100 - size, b"\x90" * size)
    function = counted.put(0x100, "c3")
    first, second = (counted.put(at, branch(CALL, TEXT + at, function)) for at in (0, 0x20))
    unlisted = counted.put(0x40, branch(CALL, TEXT + 0x40, function))
    jump = counted.put(0x60, branch(JMP32, TEXT + 0x60, function))
    before = counted.code(unlisted, 5), counted.code(jump, 5)
    counted.sites(".call_sites", [first, second, jump])
    context = counted.run(callthunks.apply)
    for place in (first, second):
        assert counted.code(place, 5) == branch(CALL, place, function - size).hex()
    assert counted.code(function - size, size) != "90" * size and counted.code(function, 1) == "c3"
    assert (counted.code(unlisted, 5), counted.code(jump, 5)) == before
    assert context.counts == {"pass": 3}, "the stub is written once"


@pytest.mark.parametrize("padding", ["code", "short"])
def test_a_function_without_its_padding_is_called_itself(counted: Bench, padding: str) -> None:
    counted.put(0xF0, "90" * 15 + "c3" if padding == "code" else "c3" * 12 + "90" * 4)
    function = counted.put(0x100, "c3")
    place = counted.put(0, branch(CALL, TEXT, function))
    before = counted.code(TEXT, 0x101)
    counted.sites(".call_sites", [place])
    assert counted.run(callthunks.apply).counts == {} and counted.code(TEXT, 0x101) == before


def test_ftrace_s_own_calls_are_not_counted(counted: Bench) -> None:
    fentry = counted.kernel.kernel.symbol("__fentry__").address
    place = counted.put(0, branch(CALL, TEXT, fentry))
    counted.sites(".call_sites", [place])
    assert counted.run(callthunks.apply).counts == {}


def test_calls_are_not_counted_without_need(bench: Make, release_612: str) -> None:
    made = bench(release_612, lacks=(CALL_DEPTH,))
    made.put(0xE0, "90" * 32)
    place = made.put(0, branch(CALL, TEXT, TEXT + 0x100))
    made.sites(".call_sites", [place])
    assert made.run(callthunks.apply).counts == {}


def test_a_kernel_that_cannot_count_calls_is_named(bench: Make, release_61: str) -> None:
    made = bench(release_61, has=(CALL_DEPTH,))
    made.sites(".call_sites", [made.put(0, branch(CALL, TEXT, TEXT + 0x100))])
    with pytest.raises(LoadError, match="skl_call_thunk_template"):
        made.run(callthunks.apply)


def test_an_endbr_that_nothing_needs_is_made_useless(new: Bench) -> None:
    places = [
        new.put(0x40 * i, code) for i, code in enumerate(["f30f1efa", "f30f1efb", "660f1f00", "0f1f4000", "f30f1efa"])
    ]
    new.sites(".ibt_endbr_seal", places[:4])
    context = new.run(ibt.apply)
    assert [new.code(place, 4) for place in places] == ["660f1f00", "660f1f00", "660f1f00", "0f1f4000", "f30f1efa"]
    assert len(context.warnings) == 1 and "no ENDBR to seal" in context.warnings[0]


def test_a_kernel_without_ibt_seals_nothing(old: Bench) -> None:
    old.sites(".ibt_endbr_seal", [old.put(0, "f30f1efa")])
    assert old.run(ibt.apply).counts == {} and old.code(TEXT, 4) == "f30f1efa"

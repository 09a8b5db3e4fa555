"""Static keys, static calls and a tracepoint of the patched module: alive in its new version, whatever they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.binary import read_object, write_object
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit import Module
from builder.image.guest import Guest
from builder.image.machine import TRACING
from builder.load import livepatch
from builder.load.keys import set_static_key, update_static_call
from builder.load.loader import load_module
from builder.pipeline import ModulePlan, build, diff
from builder.preflight.check import Checker
from samples.objects import TARGET_NAME, target_objects
from tests.conftest import needed
from tests.emit.demands import THUNK, THUNKS, nonzero_in
from tests.operate.versions import Probed, compiled
from tests.support.kernels import booted, differences, opened, snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NAME = "bespoke_keyed"
PROC = f"/proc/{NAME}"
TURNED = {"near", "far", "looped", "called"}
"""Functions whose new version says so by a thousand more."""


@dataclass(frozen=True)
class Keyed:
    kernel: Kernel
    target: Path
    module: Module


def compiled_keyed(release: str) -> Probed:
    with needed():
        return compiled(release, NAME, sorted((Path(__file__).parent / "module").iterdir()))


@pytest.fixture(scope="module")
def keyed(release: str) -> Keyed:
    made = compiled_keyed(release)
    kernel = opened(release)
    module = build([diff(*made.objects[:2])], Objects(kernel, {NAME: made.module}), ModulePlan("keyed"))
    assert module is not None
    return Keyed(kernel, made.module, module)


def test_no_part_of_it_is_left_out_or_refused(keyed: Keyed) -> None:
    assert keyed.module.manifest.warnings == ()
    assert {row.name for row in keyed.module.manifest.redirected} == {*TURNED, "ends_in_a_call"}
    found = Checker(keyed.kernel, {NAME: keyed.target}).check(keyed.module.content, ("max", "Skylake-Server"))
    assert (found.refusals, found.problems) == ((), ())


def test_thunks_in_two_files_of_one_module(keyed: Keyed, release: str) -> None:
    """Those of the second file are woven into what those of the first have left."""
    made, other = compiled_keyed(release), target_objects(release, own_key=True)
    objects = Objects(keyed.kernel, {NAME: made.module, TARGET_NAME: other.module})
    module = build([diff(*made.objects[:2]), diff(other.old, other.new)], objects, ModulePlan("both"))
    assert module is not None
    symbols = {symbol.name for symbol in read_object(module.content).symbols if symbol.name.endswith(".keys")}
    assert len(symbols) > len(TURNED) and f"{min(TURNED)}.livepatch.keys" in symbols
    found = Checker(keyed.kernel, {NAME: made.module, TARGET_NAME: other.module}).check(module.content)
    assert (found.refusals, found.problems) == ((), ())


def test_every_thunk_is_known_to_who_unwinds_the_stack(keyed: Keyed) -> None:
    """With the row of the place that leads to it: of a function that has no frame of its own, or of one that has."""
    obj = read_object(keyed.module.content)
    thunks = {symbol.value: symbol.name for symbol in obj.symbols if symbol.name.endswith((".keys", ".late"))}
    assert sorted(thunks.values()) == sorted(
        [f"{name}.livepatch.keys" for name in TURNED]
        + ["called.livepatch.late"] * 2  # what the alternatives replace
        + ["alternative.0.late", "alternative.5.late"]
    )
    places = obj.relocations_of(obj.by_name[".orc_unwind_ip"].index)
    rows = {r.addend: obj.by_name[".orc_unwind"].data[r.offset // 4 * 6 :][:6] for r in places}
    assert all(obj.symbols[r.symbol].is_section for r in places)
    starts = {s.name.removesuffix(".livepatch"): s.value for s in obj.symbols if s.name.endswith(".livepatch")}
    for value, name in thunks.items():
        function = name.partition(".")[0]
        pushed = 13 if function == "called" and name.endswith(".keys") else 0  # its site is behind its push
        led_from = starts.get(function, starts["near"]) + pushed
        assert rows[value] == rows[max(place for place in rows if place <= led_from)], name


@pytest.fixture(scope="module")
def broken(keyed: Keyed) -> dict[str, bytes]:
    obj = read_object(keyed.module.content)
    return {form: write_object(nonzero_in(symbol)(obj, keyed.kernel)) for form, symbol in THUNKS.items()}


def test_check_knows_what_a_kernel_answers_to_a_broken_thunk(keyed: Keyed, broken: dict[str, bytes]) -> None:
    checker = Checker(keyed.kernel, {NAME: keyed.target})
    for form, content in broken.items():
        assert content != keyed.module.content
        found = checker.check(content)
        assert not found.kernel_accepts and any(THUNK.log in row.message for row in found.refusals), form


@pytest.fixture(scope="module")
def guest(keyed: Keyed) -> Iterator[Guest]:
    """With the module loaded that is patched."""
    with Guest(keyed.kernel, modules={NAME: keyed.target}) as running:
        running.modprobe(NAME)
        yield running


@pytest.mark.guest
def test_what_a_kernel_answers_to_a_broken_thunk(keyed: Keyed, guest: Guest, broken: dict[str, bytes]) -> None:
    for form, content in broken.items():
        mark = guest.mark()
        said = guest.insmod(content, "keyed")
        assert not said.ok and THUNK.refused in said.output, form
        assert THUNK.log in str(guest.log().since(mark)) and "keyed" not in guest.loaded()
    assert guest.insmod(keyed.module.content, "keyed").ok
    guest.disable_livepatch("keyed")
    assert guest.rmmod("keyed").ok


def test_old_and_new_code_agree_in_the_simulated_kernel(keyed: Keyed) -> None:
    simulated = booted(keyed.kernel.release, "max")
    before = snapshot(simulated)
    try:
        load_module(simulated, keyed.target.read_bytes())
        patch = livepatch.run_init(simulated, load_module(simulated, keyed.module.content))
        names = simulated.symbols.of_module[NAME]
        off, on, call, trampoline = (
            names[n][0] for n in ("off_key", "on_key", "__SCK__keyed_call", "__SCT__keyed_call")
        )
        seen = set()
        for state in range(8):
            set_static_key(simulated, off, state & 1)
            set_static_key(simulated, on, state >> 1 & 1)
            update_static_call(simulated, call, names["twice" if state & 4 else "once"][0], trampoline)
            for function in patch.objects[0].functions:
                both = livepatch.side_by_side(simulated, function, 3)
                version = 1000 if function.name in TURNED else 1
                assert both.new.int32 == both.old.int32 + version, (function.name, state)
                seen.add((function.name, both.old.int32))
        assert len(seen) == 4 + 4 + 4 + 2 + 2
    finally:
        livepatch.unload_all(simulated)
    assert differences(before, snapshot(simulated)) == []


def facts(text: str) -> dict[str, int]:
    """The functions' values by name, what they have of a new version left out."""
    return {name: int(value) % 1000 for name, value in re.findall(r"([a-z]+) (\d+)", text.partition("\n")[0])}


@pytest.mark.guest
def test_old_and_new_code_agree_before_with_and_after(keyed: Keyed, guest: Guest) -> None:
    toggles = 100
    mark = guest.mark()

    def states() -> list[dict[str, int]]:
        """All four, from the one that the module was built with and back to it."""
        out = [{k: v for k, v in facts(guest.check(f"cat {PROC}")).items() if k not in ("noted", "ways")}]
        for command in "kckc":
            said = guest.check(f"echo {command} > {PROC}; cat {PROC}")
            out.append({k: v for k, v in facts(said).items() if k not in ("noted", "ways")})
        return out

    before = states()
    assert before[0] == before[-1] and len({tuple(row.items()) for row in before}) == 4
    assert guest.insmod(keyed.module.content, "keyed").ok
    guest.wait_transition("keyed")
    said = guest.check(f"cat {PROC}")
    assert all(int(value) >= 1000 for name, value in re.findall(r"([a-z]+) (\d+)", said) if name in TURNED)
    patched = states()
    assert [row | {"ends": row["ends"] - 1} for row in patched] == before
    guest.check(f"echo 1 > {TRACING}/events/keyed/keyed_step/enable; cat {PROC} > /dev/null")
    assert guest.check(f"grep -c 'keyed_step: x=4' {TRACING}/trace") == "1\n"
    guest.check(f"echo 0 > {TRACING}/events/keyed/keyed_step/enable; cat {PROC} > /dev/null")
    assert guest.check(f"grep -c 'keyed_step: x=4' {TRACING}/trace") == "1\n"
    load = f"for n in 1 2; do (while [ ! -e /run/over ]; do cat {PROC} > /dev/null; done &); done"
    turn = f"for k in $(seq {toggles // 2}); do echo k > {PROC}; echo c > {PROC}; done; touch /run/over"
    guest.check(f"{load}; {turn}", timeout=120)
    assert states() == patched
    guest.disable_livepatch("keyed")
    assert guest.rmmod("keyed").ok
    assert states() == before
    assert guest.warnings(mark) == ()

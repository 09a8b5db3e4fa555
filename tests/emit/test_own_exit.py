"""The exit code of a patched module: the new version runs while the livepatch is enabled, else the old one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit import Module
from builder.image.guest import Guest
from builder.pipeline import ModulePlan, build, diff
from builder.preflight.check import Checker
from tests.conftest import needed
from tests.operate.versions import compiled
from tests.support.kernels import opened

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NAME = "bespoke_leaving"


@dataclass(frozen=True)
class Leaving:
    kernel: Kernel
    objects: tuple[Path, Path]
    target: Path
    module: Module


@pytest.fixture(scope="module")
def leaving(release: str) -> Leaving:
    with needed():
        made = compiled(release, NAME, sorted((Path(__file__).parent / "leaving").iterdir()))
    kernel = opened(release)
    module = build([diff(*made.objects[:2])], Objects(kernel, {NAME: made.module}), ModulePlan("leaving"))
    assert module is not None
    return Leaving(kernel, (made.objects[0], made.objects[1]), made.module, module)


def test_exit_code_travels_with_what_leads_to_it(leaving: Leaving) -> None:
    rows = {row.name: row for row in leaving.module.manifest.functions if row.role != "child"}
    assert {name: (row.role, row.redirected) for name, row in rows.items()} == {
        "show": ("changed", True),
        "say": ("changed", False),
        "leave": ("carrier", False),
    }
    assert [(row.code, row.symbol) for row in leaving.module.manifest.warnings] == [("exit-changed", "say")]
    found = Checker(leaving.kernel, {NAME: leaving.target}).check(leaving.module.content, ("max", "Skylake-Server"))
    assert (found.refusals, found.problems) == ((), ())


def said(guest: Guest, mark: float) -> list[str]:
    """Versions of the exit code that have run: `old`, or a number, of its begin and end."""
    lines = [r.text for r in guest.log().since(mark).records if f"{NAME}: " in r.text]
    found = [text.partition(f"{NAME}: ")[2] for text in lines]
    return [text.partition(" ")[0] if text.startswith("old") else text[-1] for text in found]


@pytest.mark.guest
def test_the_new_version_runs_while_the_livepatch_is_enabled(leaving: Leaving) -> None:
    with Guest(leaving.kernel, modules={NAME: leaving.target}) as guest:
        begun = guest.mark()
        for first in (True, False):  # a module that is there before the livepatch, and one that comes after it
            if first:
                guest.modprobe(NAME)
            assert guest.insmod(leaving.module.content, "leaving").ok
            guest.wait_transition("leaving")
            if not first:
                guest.modprobe(NAME)
            assert guest.check(f"cat /proc/{NAME}") == "version 1\n"
            mark = guest.mark()
            assert guest.rmmod(NAME).ok
            assert said(guest, mark) == ["1", "1"]
            guest.disable_livepatch("leaving")
            assert guest.rmmod("leaving").ok
        guest.modprobe(NAME)
        assert guest.insmod(leaving.module.content, "leaving").ok
        guest.wait_transition("leaving")
        guest.disable_livepatch("leaving")
        assert guest.rmmod("leaving").ok
        mark = guest.mark()
        assert guest.rmmod(NAME).ok
        assert said(guest, mark) == ["old", "old"]
        assert guest.warnings(begun) == ()


@pytest.mark.guest
@pytest.mark.long
def test_the_livepatch_stays_in_memory_while_the_new_version_runs(leaving: Leaving) -> None:
    with Guest(leaving.kernel, modules={NAME: leaving.target}) as guest:
        guest.modprobe(NAME, params="held=1")
        mark = guest.mark()
        assert guest.insmod(leaving.module.content, "leaving").ok
        guest.wait_transition("leaving")
        guest.check(f"(rmmod {NAME}; echo gone > /run/gone) > /dev/null 2>&1 &")
        guest.check("for n in $(seq 50); do dmesg | grep -q 'way out of version 1' && exit 0; sleep 0.1; done; exit 1")
        guest.check("echo 0 > /sys/kernel/livepatch/leaving/enabled; sleep 2")
        assert not guest.rmmod("leaving").ok
        guest.check(f"echo 0 > /sys/module/{NAME}/parameters/held")
        guest.check("for n in $(seq 100); do [ -e /run/gone ] && exit 0; sleep 0.1; done; exit 1", timeout=60)
        assert said(guest, mark) == ["1", "1"] and NAME not in guest.loaded()
        guest.wait_transition("leaving")
        assert guest.rmmod("leaving").ok
        assert guest.warnings(mark) == ()


@pytest.mark.guest
@pytest.mark.long
def test_a_livepatch_that_takes_its_place_leads_on_and_the_first_stays_in_memory(leaving: Leaving) -> None:
    """`--replace` calls no callback of what it replaces, so that the exit leads through it for good."""
    objects = Objects(leaving.kernel, {NAME: leaving.target})
    later = build([diff(*leaving.objects)], objects, ModulePlan("later", replace=True))
    assert later is not None
    with Guest(leaving.kernel, modules={NAME: leaving.target}) as guest:
        begun = guest.mark()
        for disabled in (False, True):
            guest.modprobe(NAME)
            if not disabled:
                assert guest.insmod(leaving.module.content, "leaving").ok
                guest.wait_transition("leaving")
            assert guest.insmod(later.content, "later").ok
            guest.wait_transition("later")
            assert not guest.rmmod("leaving").ok, "the exit leads through it, or did"
            if disabled:  # then the exit is led back to what it was when the later one came
                guest.disable_livepatch("later")
                assert guest.rmmod("later").ok
            mark = guest.mark()
            assert guest.rmmod(NAME).ok
            assert said(guest, mark) == (["old", "old"] if disabled else ["1", "1"])
            if not disabled:
                guest.disable_livepatch("later")
                assert guest.rmmod("later").ok
        assert guest.warnings(begun) == ()

"""The patches of samples/authors in a stock kernel: each says or does there what its author wants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.acquire.compile import AS_USUAL
from builder.acquire.source import fetch_source
from builder.compose.owner import Objects
from builder.emit import Module
from builder.image.guest import Guest
from builder.pipeline import ModulePlan, patch
from tests.conftest import ROOT, needed
from tests.support.kernels import opened

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]

SAID = "dmesg | sed -n 's/.*samples: //p'"


@pytest.fixture(scope="module")
def guest(release_61: str) -> Iterator[Guest]:
    with Guest(opened(release_61)) as running:
        yield running


def built(release: str, sample: str, name: str) -> Module:
    with needed("no source"):
        tree = fetch_source(release)
    place = ROOT / "samples/authors" / f"{sample}.patch"
    made = patch([Path(place)], tree, Objects(opened(release)), ModulePlan(name), AS_USUAL)
    assert made.module is not None
    return made.module


def load(guest: Guest, module: Module) -> None:
    assert guest.insmod(module.content, module.name).ok
    guest.wait_transition(module.name)


def unload(guest: Guest, name: str) -> None:
    guest.disable_livepatch(name)
    assert guest.rmmod(name).ok


def test_callbacks_run_when_they_should(guest: Guest, release_61: str) -> None:
    guest.check("dmesg -c > /dev/null")
    load(guest, built(release_61, "callbacks", "callbacks"))
    assert guest.check(SAID).splitlines() == ["about to patch vmlinux", "patched"]
    unload(guest, "callbacks")
    assert guest.check(SAID).splitlines()[2:] == ["about to take the patch off", "as it was"]
    assert guest.warnings() == ()


def test_a_later_livepatch_finds_the_state_of_an_earlier_one(guest: Guest, release_61: str) -> None:
    guest.check("dmesg -c > /dev/null")
    for name in ("first", "second"):
        load(guest, built(release_61, "state", name))
    assert guest.check(SAID).splitlines() == [f"version 1, patch number {n} of its kind" for n in (1, 2)]
    for name in ("second", "first"):
        unload(guest, name)
    assert guest.check(SAID).splitlines()[2:] == ["number 2 goes", "number 1 goes"]
    assert guest.warnings() == ()


@pytest.mark.long
def test_a_system_call_is_patched(guest: Guest, release_61: str) -> None:
    load(guest, built(release_61, "syscall", "uname"))
    assert guest.check("uname -s") == "Linux (patched)\n"
    unload(guest, "uname")
    assert guest.check("uname -s") == "Linux\n"
    assert guest.warnings() == ()


@pytest.mark.long
def test_a_shadow_variable_is_a_new_field(guest: Guest, release_61: str) -> None:
    """Of tasks that are younger than the patch; those that are not have none."""
    order = "sh -c 'sed -n s/^Order:.//p /proc/self/status'"
    load(guest, built(release_61, "shadow", "shadow"))
    first, second = (int(guest.check(order)) for _ in range(2))
    assert 0 < first < second and guest.check("sed -n s/^Order:.//p /proc/1/status") == ""
    unload(guest, "shadow")
    assert guest.check(order) == "" and guest.warnings() == ()

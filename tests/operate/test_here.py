"""`bespoke` itself on a live-patched kernel: the host's Python, run in a guest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.image.guest import Guest, MachineConfig, Share
from builder.image.machine import TRACING, GuestHost
from tests.operate.chroot import MOUNTS, PLACE, python
from tests.operate.scene import COUNTED, FOLLOWING, expected, histogram, plant
from tests.operate.versions import NAME, Probed, behind, offsets

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module")
def guest(made: Probed) -> Iterator[Guest]:
    """A guest that has the host's files, read-only; the module is loaded, its probes planted."""
    with Guest(made.kernel, MachineConfig(memory_mb=2048), shares=[Share(Path("/"), PLACE)]) as running:
        running.check(MOUNTS)
        assert running.insmod(made.module, NAME).ok
        plant(GuestHost(running), made)
        yield running


def bespoke(guest: Guest, *words: str) -> tuple[int, dict[str, Any]]:
    answer = python(guest, "-m", "builder", *words, "--json")
    assert answer.output.lstrip().startswith("{"), answer.output
    return answer.status, json.loads(answer.output)


def test_the_commands(guest: Guest, made: Probed) -> None:
    guest.put(f"{PLACE}/run/p1.ko", made.build(0, 1, "p1"))
    status, loaded = bespoke(guest, "load", "/run/p1.ko")
    assert status == 0 and len(loaded["moved"]) == FOLLOWING and loaded["reports"] == []
    status, planted = bespoke(guest, "probe", f"{NAME}:inner+{offsets(made)['mid']}", "--name", "b/after")
    assert status == 0 and planted["places"] == [f"{NAME}:inner+{offsets(made)['mid']}", planted["places"][1]]
    status, shown = bespoke(guest, "status")
    assert status == 0 and [(p["module"], p["state"]) for p in shown["patches"]] == [("p1", "enabled")]
    assert {"b/after", "b/mid", "b/cold"} <= {event["event"] for event in shown["events"]}
    answer = python(guest, "-m", "builder", "load", "/run/p1.ko")
    assert answer.status == 2 and "loaded already" in answer.output
    status, unloaded = bespoke(guest, "unload", "p1")
    assert status == 0 and unloaded["module"] == "p1"
    assert bespoke(guest, "status")[1]["patches"] == []
    guest.check(f"echo 0 > {TRACING}/events/b/after/enable && echo -:b/after >> {TRACING}/kprobe_events")


@pytest.mark.long
def test_after_a_plain_insmod(guest: Guest, made: Probed) -> None:
    """The status tells what lost its code and what helps; that takes the livepatch on, and plants the probes."""
    assert guest.insmod(made.build(0, 1, "p1"), "p1").ok
    guest.wait_transition("p1", 60)
    _, shown = bespoke(guest, "status")
    (patch,) = shown["patches"]
    assert patch["phase"] is None and {row["code"] for row in patch["reports"]} == {"lost-code"}
    assert all("`bespoke status --repair`" in row["message"] for row in patch["reports"])
    _, repaired = bespoke(guest, "status", "--repair")
    assert len(repaired["repaired"]) == 1 + FOLLOWING
    (patch,) = repaired["patches"]
    assert patch["phase"] == "enabled" and patch["reports"] == [] and len(patch["moved"]) == FOLLOWING
    before = counts(guest)
    guest.check(f"echo 1 3 > /proc/{NAME}; echo 3 2 > /proc/{NAME}")
    after = counts(guest)
    assert {event: after[event] - before[event] for event in COUNTED} == expected(5, 2)
    status, unloaded = bespoke(guest, "unload", "p1")
    assert status == 0 and unloaded["reports"] == []


def counts(guest: Guest) -> dict[str, int]:
    return {event: histogram(guest.check(f"cat {TRACING}/events/b/{event}/hist")) for event in COUNTED}


@pytest.mark.long
def test_what_probe_says(guest: Guest, made: Probed) -> None:
    guest.put(f"{PLACE}/run/p1.ko", made.build(0, 1, "p1"))
    bespoke(guest, "load", "/run/p1.ko")
    at = f"{NAME}:inner+{offsets(made)['early']}"
    status, planted = bespoke(guest, "probe", at, "--name", "u/fetching", "kind=%di:u32")
    assert status == 0 and len(planted["places"]) == 2
    answer = python(guest, "-m", "builder", "probe", f"{NAME}:inner+1", "--name", "u/inside")
    assert answer.status == 2 and "inside an instruction" in answer.output
    lone = f"{NAME}:outer+{behind(made)}"
    status, planted = bespoke(guest, "probe", lone, "--name", "u/lone", "s=$stack1:u64")
    assert status == 1 and not planted["counts"] and [row["code"] for row in planted["reports"]] == ["arguments"]
    events = [row.split()[0].partition(":")[2] for row in guest.check(f"grep :u/ {TRACING}/kprobe_events").splitlines()]
    assert set(events) == {"u/fetching", "u/lone"}
    guest.check(f"echo 0 > {TRACING}/events/u/enable")
    guest.check(f"for e in fetching lone; do echo -:u/$e >> {TRACING}/kprobe_events; done")
    guest.check("echo 0 > /sys/kernel/livepatch/p1/enabled")
    _, shown = bespoke(guest, "status")
    assert [(p["module"], p["state"]) for p in shown["patches"]] == [("p1", "disabled")]
    bespoke(guest, "unload", "p1")


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_a_step_and_repaired(guest: Guest, made: Probed, stride: int) -> None:
    mark = guest.mark()
    guest.put(f"{PLACE}/run/p1.ko", made.build(0, 1, "p1"))
    answer = python(guest, "-m", "tests.operate.inside", "/run/p1.ko", str(stride), timeout=580.0)
    assert answer.ok, answer.output
    rows = [json.loads(line) for line in answer.output.splitlines()]
    killings = [row for row in rows if "killed" in row]
    assert [row for row in killings if row["counted"] != expected(2, 1) or row["interrupted"]] == []
    assert sum(row["killed"] == "load" for row in killings) >= 12 // stride
    assert len(killings) >= (12 + 8) // stride
    assert rows[-2]["patches"] == []
    assert guest.warnings(mark) == ()

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
from tests.operate.scene import FOLLOWING, expected, plant
from tests.operate.versions import NAME, Probed, offsets

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


def test_killed_at_every_step_and_repaired(guest: Guest, made: Probed) -> None:
    mark = guest.mark()
    guest.put(f"{PLACE}/run/p1.ko", made.build(0, 1, "p1"))
    answer = python(guest, "-m", "tests.operate.inside", "/run/p1.ko", timeout=580.0)
    assert answer.ok, answer.output
    rows = [json.loads(line) for line in answer.output.splitlines()]
    killings = [row for row in rows if "killed" in row]
    assert [row for row in killings if row["counted"] != expected(2, 1) or row["interrupted"]] == []
    assert sum(row["killed"] == "load" for row in killings) >= 12
    assert len(killings) >= 12 + 8
    assert rows[-2]["patches"] == []
    assert guest.warnings(mark) == ()

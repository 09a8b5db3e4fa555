"""Probes under live patches in a stock kernel: none lost, none doubled, whatever is loaded when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.errors import Allowed, LoadError, RefusedError
from builder.image.guest import Guest
from builder.image.machine import KPROBE_EVENTS, TRACING, GuestHost
from builder.operate.kprobes import parse_events
from builder.operate.live import Live
from builder.operate.planting import ProbeOptions, probe
from builder.operate.survey import survey
from tests.operate.scene import COUNTED, FOLLOWING, PROBES, expected, facts, histogram, plant
from tests.operate.versions import LONGEST, NAME, Probed, offsets

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]
PROC = f"/proc/{NAME}"
CALLS = f"echo 1 20 > {PROC}; echo 3 5 > {PROC}"
LOAD = f"(while [ -e /run/go ]; do {CALLS}; done; echo done > /run/done) > /dev/null 2>&1 &"
CLEAN = f"""\
for event in {TRACING}/events/b/*/; do
    echo 0 > $event/enable
    sed -n 's/^\\(hist:.*\\) \\[.*/!\\1/p' $event/trigger > /run/trigger
    cat /run/trigger > $event/trigger
done
: > {KPROBE_EVENTS}
rmmod {NAME}
"""


@dataclass
class GuestScene:
    guest: Guest
    host: GuestHost

    def call(self, kind: int, count: int) -> None:
        self.guest.check(f"echo {kind} {count} > {PROC}")

    def hits(self, event: str) -> int:
        return histogram(self.host.read(f"{TRACING}/events/b/{event}/hist"))

    def start(self) -> None:
        self.guest.check(f"touch /run/go; rm -f /run/done; {LOAD}")

    def stop(self) -> None:
        self.guest.check("rm /run/go; while [ ! -e /run/done ]; do sleep 0.1; done")

    def facts(self) -> dict[str, int]:
        return dict(facts(self.host.read(PROC)))

    def live(self) -> Live:
        return Live(self.host)

    def clean(self) -> None:
        self.guest.check(CLEAN)


@pytest.fixture(scope="module")
def running(made: Probed) -> Iterator[Guest]:
    with Guest(made.kernel) as guest:
        yield guest


@pytest.fixture
def scene(made: Probed, running: Guest) -> Iterator[GuestScene]:
    """The module loaded, all probes planted and armed."""
    assert running.insmod(made.module, NAME).ok
    found = GuestScene(running, GuestHost(running))
    mark = running.mark()
    plant(found.host, made)
    yield found
    found.clean()
    assert running.warnings(mark) == ()


def test_probes_count_every_call_once_through_load_and_unload(scene: GuestScene, made: Probed) -> None:
    scene.call(1, 10)
    scene.call(3, 7)
    _assert_counts(scene)
    assert scene.facts()["calls"] == 17
    scene.start()
    outcome = scene.live().load(made.build(0, 1, LONGEST), "p1.ko")
    assert {row.source for row in outcome.moved} >= {f"{NAME}:inner+{offsets(made)['mid']}"}
    assert outcome.reports == ()
    scene.call(3, 5)
    scene.stop()
    _assert_counts(scene)
    assert len([e for e in parse_events(scene.host.read(KPROBE_EVENTS)) if e.spot.module == LONGEST]) == FOLLOWING
    # The event that was disabled has its second place too, and is disabled.
    assert scene.host.read(f"{TRACING}/events/b/off/enable").strip() == "0"
    status = survey(scene.host)
    assert [(p.module, p.state) for p in status.patches] == [(LONGEST, "enabled")] and status.interrupted is None
    assert all(f.current for f in status.patches[0].functions)
    before = scene.facts()["calls"]
    scene.start()
    for built in (None, made.build(0, 2, LONGEST)):  # then another build of that name
        if built is not None:
            scene.live().load(built, "p1.ko")
        scene.live().unload(LONGEST)
        scene.call(1, 3)
        assert {e.spot.module for e in parse_events(scene.host.read(KPROBE_EVENTS))} == {NAME}
    scene.stop()
    assert scene.facts()["calls"] > before
    _assert_counts(scene)


def _assert_counts(scene: GuestScene) -> None:
    seen = scene.facts()
    assert {event: scene.hits(event) for event in COUNTED} == expected(seen["calls"], seen["rarities"] // 2)


def test_a_second_version_on_top_of_the_first(scene: GuestScene, made: Probed, tmp_path: Path) -> None:
    first = tmp_path / "p1.ko"
    first.write_bytes(made.build(0, 1, "p1"))
    scene.live().load(first.read_bytes(), "p1.ko")
    scene.call(1, 4)
    scene.call(3, 2)
    # note() has been told entered: 1 ... 6, the variable that only version 1 has.
    scene.start()
    scene.live().load(made.build(1, 2, "p2", on=first), "p2.ko")
    scene.call(3, 5)
    scene.stop()
    _assert_counts(scene)
    last = scene.guest.check(f"echo 1 1 > {PROC}; cat {PROC}")
    assert facts(last)["last"] == 0 * 3 + 1 + 1 + 2, "outer() of version 1 runs inner() of version 2"
    states = {p.module: [(f.name, f.current) for f in p.functions] for p in survey(scene.host).patches}
    assert states == {"p1": [("inner", False), ("outer", True)], "p2": [("inner", True)]}
    with pytest.raises(LoadError, match="p2 was built on p1"):
        scene.live().unload("p1")
    scene.start()
    scene.live().unload("p2")
    scene.stop()
    _assert_counts(scene)
    # A version that is built from the originals shares the first one's variable too.
    scene.live().load(made.build(0, 2, "p3", on=first), "p3.ko")
    scene.call(1, 3)
    scene.call(3, 3)
    _assert_counts(scene)
    scene.live().unload("p3")
    scene.live().unload("p1")
    scene.call(3, 4)
    _assert_counts(scene)


def test_a_version_that_replaces(scene: GuestScene, made: Probed, tmp_path: Path) -> None:
    first = tmp_path / "p1.ko"
    first.write_bytes(made.build(0, 1, "p1"))
    with pytest.raises(RefusedError, match=r"entered\.\d+, which is lost") as caught:
        made.build(0, 2, "p2", on=first, replace=True)
    (lost,) = caught.value.refusals
    replacing = made.build(0, 2, "p2", on=first, replace=True, allowed=Allowed.parse([f"{lost.code}:{lost.symbol}"]))
    scene.live().load(first.read_bytes(), "p1.ko")
    scene.start()
    scene.live().load(replacing, "p2.ko")
    scene.call(3, 5)
    scene.stop()
    _assert_counts(scene)
    assert [(p.module, p.state) for p in survey(scene.host).patches] == [("p1", "replaced"), ("p2", "enabled")]
    scene.live().unload("p1")
    scene.call(3, 5)
    _assert_counts(scene)
    scene.live().unload("p2")
    scene.call(3, 5)
    _assert_counts(scene)


def test_a_probe_planted_on_the_patched_name_follows(scene: GuestScene, made: Probed) -> None:
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    mid = offsets(made)["mid"]
    planting = probe(scene.host, f"{NAME}:inner+{mid}", ProbeOptions(name="b/after"))
    assert len(planting.places) == 2 and planting.reports == ()
    scene.host.write(f"{TRACING}/events/b/after/trigger", "hist:keys=common_type")
    scene.call(1, 6)
    assert scene.hits("after") == 6
    scene.live().unload("p1")
    scene.call(1, 5)
    assert scene.hits("after") == 11


def test_all_events_are_there_again_after_each_test(scene: GuestScene) -> None:
    assert {e.name for e in parse_events(scene.host.read(KPROBE_EVENTS))} == set(PROBES)

"""The same scenario in the simulated kernel: the same rules, the same counts."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from builder.errors import Allowed, LoadError, RefusedError
from builder.image.machine import KPROBE_EVENTS, TRACING
from builder.operate.live import Live
from builder.operate.planting import ProbeOptions, probe
from builder.operate.survey import survey
from builder.operate.trail import manifest_of
from tests.operate.killed import KillingHost
from tests.operate.scene import FOLLOWING, SimulatedScene
from tests.operate.versions import NAME, Probed, behind, offsets

pytestmark = [pytest.mark.kernel]


def test_probes_count_every_call_once_through_load_and_unload(scene: SimulatedScene, made: Probed) -> None:
    scene.call(1, 10)
    scene.call(3, 7)
    assert scene.counts() == scene.expected
    outcome = scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    assert len(outcome.moved) == FOLLOWING and outcome.reports == ()
    scene.call(1, 5)
    scene.call(3, 5)
    assert scene.counts() == scene.expected
    assert scene.host.hits("b/off") == 0
    scene.live().unload("p1")
    scene.call(3, 4)
    assert scene.counts() == scene.expected


def test_a_second_version_on_top_of_the_first(scene: SimulatedScene, made: Probed, tmp_path: Path) -> None:
    first = tmp_path / "p1.ko"
    first.write_bytes(made.build(0, 1, "p1"))
    scene.live().load(first.read_bytes(), "p1.ko")
    scene.call(3, 3)
    names = scene.host.kernel.symbols.of_module["p1"]
    (entered,) = (names[name][0] for name in names if name.startswith("entered"))
    assert scene.host.kernel.memory.u32(entered) == 3
    scene.live().load(made.build(1, 2, "p2", on=first), "p2.ko")
    scene.call(1, 1)
    assert scene.results[-1] == 2 * (0 * 3 + 1 + 1 + 2), "outer() of version 1 runs inner() of version 2"
    scene.call(3, 6)
    assert scene.host.kernel.memory.u32(entered) == 10
    assert scene.counts() == scene.expected
    states = {p.module: [(f.name, f.current) for f in p.functions] for p in survey(scene.host).patches}
    assert states == {"p1": [("inner", False), ("outer", True)], "p2": [("inner", True)]}
    with pytest.raises(LoadError, match="p2 was built on p1"):
        scene.live().unload("p1")
    scene.live().unload("p2")
    scene.live().load(made.build(0, 2, "p3", on=first), "p3.ko")
    scene.call(3, 2)
    assert scene.host.kernel.memory.u32(entered) == 12, "the newer outer() counts in the older one's variable"
    scene.live().unload("p3")
    scene.live().unload("p1")
    scene.call(3, 2)
    assert scene.counts() == scene.expected


def test_a_version_that_replaces(scene: SimulatedScene, made: Probed, tmp_path: Path) -> None:
    first = tmp_path / "p1.ko"
    first.write_bytes(made.build(0, 1, "p1"))
    with pytest.raises(RefusedError, match=r"entered\.\d+, which is lost") as caught:
        made.build(0, 2, "p2", on=first, replace=True)
    (lost,) = caught.value.refusals
    scene.live().load(first.read_bytes(), "p1.ko")
    lossy = made.build(0, 2, "p2", on=first, replace=True, allowed=Allowed.parse([f"{lost.code}:{lost.symbol}"]))
    scene.live().load(lossy, "p2.ko")
    scene.call(3, 5)
    assert scene.counts() == scene.expected
    scene.live().unload("p1")
    scene.call(1, 5)
    scene.live().unload("p2")
    scene.call(3, 5)
    assert scene.counts() == scene.expected


def test_a_probe_planted_on_the_patched_name_follows(scene: SimulatedScene, made: Probed) -> None:
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    planting = probe(scene.host, f"{NAME}:inner+{offsets(made)['mid']}", ProbeOptions(name="b/after"))
    assert len(planting.places) == 2 and planting.reports == ()
    scene.call(1, 6)
    assert scene.host.hits("b/after") == 6
    scene.live().unload("p1")
    scene.call(1, 5)
    assert scene.host.hits("b/after") == 11


def test_an_event_that_stands_only_in_a_version_goes_to_the_original(scene: SimulatedScene, made: Probed) -> None:
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    scene.host.write(KPROBE_EVENTS, f"p:b/own p1:inner+{offsets(made)['mid']}\n", append=True)
    scene.host.write(f"{TRACING}/events/b/own/enable", "1")
    scene.call(1, 2)
    scene.live().unload("p1")
    scene.call(1, 3)
    assert scene.host.hits("b/own") == 5


def test_what_is_not_proven_the_same_is_reported_and_stays(scene: SimulatedScene, made: Probed) -> None:
    """Behind the call in outer(): the stack of version 1 is another."""
    scene.host.write(KPROBE_EVENTS, f"p:b/slot {NAME}:outer+{behind(made)} s=$stack1:u64\n", append=True)
    outcome = scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    assert [(r.code, r.probe) for r in outcome.reports] == [("arguments", "b/slot")]


def test_probes_of_others_are_reported_by_address(scene: SimulatedScene, made: Probed) -> None:
    inside = scene.host.kernel.symbols.find_function(f"{NAME}:inner") + offsets(made)["mid"]
    scene.host.registry.register_kprobe(inside)
    outcome = scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    assert [(r.code, r.probe) for r in outcome.reports] == [("not-ours-to-move", f"{inside:#x}")]


def test_a_post_handler_is_named_as_what_blocks(scene: SimulatedScene, made: Probed) -> None:
    entry = scene.host.kernel.symbols.find_function(f"{NAME}:outer")
    scene.host.registry.register_kprobe(entry, post_handler=True)
    with pytest.raises(LoadError, match=r"post_handler holds outer.*outer\+0x0"):
        scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    assert survey(scene.host).patches == ()
    scene.call(3, 2)
    assert scene.counts() == scene.expected


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"p:b/bad {NAME}:inner+1", errno.EILSEQ),
        (f"p:b/bad {NAME}:nowhere", errno.ENOENT),
        ("p:b/bad nowhere", errno.ENOENT),
        ("p:b/mid bespoke_probed:inner+6 a=%di:u32", errno.EEXIST),
    ],
)
def test_the_kernel_s_own_rules(scene: SimulatedScene, line: str, code: int) -> None:
    with pytest.raises(OSError) as caught:
        scene.host.write(KPROBE_EVENTS, line + "\n", append=True)
    assert caught.value.errno == code


def test_a_bare_name_is_ambiguous_while_a_version_has_it(scene: SimulatedScene, made: Probed) -> None:
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    with pytest.raises(OSError) as caught:
        scene.host.write(KPROBE_EVENTS, "p:b/bare inner\n", append=True)
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_every_place_is_planted_while_the_patch_is_held(scene: SimulatedScene, made: Probed) -> None:
    """note() is a symbol of the patched module: a probe's copy of the call must not be taken before it leads there."""
    module = made.build(0, 1, "p1")
    (row,) = (row for row in manifest_of(module, "p1.ko").functions if row.name == "inner")
    assert offsets(made)["late"] in [cells.old_offset for cells in row.map or () if cells.new_offset in row.late]
    host = KillingHost(scene.host, 1000)
    Live(host).load(module, "p1.ko")
    steps = [step for step in host.steps if "p1:inner" in step or step == "insert"]
    assert steps[0] == "insert" and len(steps) == 2
    scene.call(3, 3)
    assert scene.counts() == scene.expected

"""The same scenario in the simulated kernel: the same rules, the same counts."""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from pathlib import Path

import pytest

from builder.arch import TARGET
from builder.compose.owner import Objects
from builder.errors import Allowed, LoadError, RefusedError, UsageError
from builder.image.machine import KPROBE_EVENTS, TRACING
from builder.operate.kprobes import Event, Spot, parse_events
from builder.operate.kprobes.events import COMPARED, NAME_MOST
from builder.operate.live import Live
from builder.operate.observe import learn_addresses, observe
from builder.operate.planting import ProbeOptions, probe
from builder.operate.survey import survey
from builder.operate.trail import manifest_of, read_trail
from builder.pipeline import ModulePlan, build, diff
from samples.objects import vmlinux_objects
from samples.simulated import seq_file
from tests.emit.edits import named_as_originals
from tests.operate.killed import KillingHost
from tests.operate.scene import FOLLOWING, PROBES, SimulatedScene
from tests.operate.versions import LONGEST, NAME, Probed, behind, offsets
from tests.support.kernels import opened

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


def test_all_that_was_loaded_goes_the_newest_first(scene: SimulatedScene, made: Probed, tmp_path: Path) -> None:
    first = tmp_path / "p1.ko"
    first.write_bytes(made.build(0, 1, "p1"))
    scene.live().load(first.read_bytes(), "p1.ko")
    scene.live().load(made.build(1, 2, "p2", on=first), "p2.ko")
    with pytest.raises(LoadError, match="unload that first"):
        scene.live().unload("p1")
    assert [outcome.module for outcome in scene.live().unload_all()] == ["p2", "p1"]
    assert scene.live().trail.records == () and list(scene.live().unload_all()) == []
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
    scene.host.write(KPROBE_EVENTS, f"p:b/own p1:inner.livepatch+{offsets(made)['mid']}\n", append=True)
    scene.host.write(f"{TRACING}/events/b/own/enable", "1")
    scene.call(1, 2)
    scene.live().unload("p1")
    scene.call(1, 3)
    assert scene.host.hits("b/own") == 5


def test_places_longer_than_what_the_kernel_compares_are_removed(scene: SimulatedScene, made: Probed) -> None:
    before = scene.host.read(KPROBE_EVENTS)
    for version in (1, 2, 1):
        scene.live().load(made.build(0, version, LONGEST), "p1.ko")
        assert max(len(str(e.spot)) for e in parse_events(scene.host.read(KPROBE_EVENTS))) > COMPARED
        scene.call(3, 2)
        assert scene.live().unload(LONGEST).reports == ()
        assert scene.host.read(KPROBE_EVENTS) == before
    assert scene.counts() == scene.expected


def _in_new_code_alone(scene: SimulatedScene, made: Probed) -> str:
    """An event at an instruction of version 1 for which the original has none."""
    (row,) = (row for row in manifest_of(made.build(0, 1, "p1"), "p1.ko").functions if row.name == "inner")
    code = scene.host.kernel.memory.read(
        start := scene.host.kernel.symbols.of_module["p1"]["inner.livepatch"][0], row.new_size
    )
    mapped = {cells.new_offset for cells in row.map or ()}
    place = next(i.offset - start for i in TARGET.decode(code, start) if i.offset - start not in mapped)
    scene.host.write(KPROBE_EVENTS, f"p:b/new p1:inner.livepatch+{place}\n", append=True)
    return f"p1:inner.livepatch+{place}"


def test_an_event_that_is_enabled_in_new_code_alone_is_never_unloaded_over(scene: SimulatedScene, made: Probed) -> None:
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    place = _in_new_code_alone(scene, made)
    for key, on, off in (("enable", "1", "0"), ("trigger", "hist:keys=common_type", "!hist:keys=common_type")):
        scene.host.write(f"{TRACING}/events/b/new/{key}", on)
        with pytest.raises(LoadError, match=rf"`-:b/new {re.escape(place)}`.*p1 is still enabled"):
            scene.live().unload("p1")
        assert [(p.state, p.phase) for p in survey(scene.host).patches] == [("enabled", "enabled")]
        scene.host.write(f"{TRACING}/events/b/new/{key}", off)
    outcome = scene.live().unload("p1")
    assert [(r.code, r.probe, r.place) for r in outcome.reports] == [("lost-place", "b/new", place)]
    assert "p1:" not in scene.host.read(KPROBE_EVENTS)
    scene.call(3, 2)
    assert scene.counts() == scene.expected


def test_a_module_stays_while_the_kernel_keeps_a_place_in_it(scene: SimulatedScene, made: Probed) -> None:
    """Enabled by perf, which `enable` does not show: found out when the livepatch is off already."""
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    place = _in_new_code_alone(scene, made)
    state = scene.host.registry.events["b/new"]

    class Perf(KillingHost):
        def write(self, path: str, text: str, *, append: bool = False) -> None:
            state.enabled = True
            super().write(path, text, append=append)

    with pytest.raises(LoadError, match=rf"`-:b/new {re.escape(place)}`.*status --repair"):
        Live(Perf(scene.host, 1000)).unload("p1")
    assert "p1" in scene.host.kernel.modules and survey(scene.host).interrupted == "p1"
    state.enabled = False
    assert scene.live().repair() == ["unloading p1 was interrupted: it is out"]
    assert "p1:" not in scene.host.read(KPROBE_EVENTS) and "p1" not in scene.host.kernel.modules


def test_nothing_is_loaded_over_places_that_were_left(scene: SimulatedScene, made: Probed) -> None:
    scene.host.write(KPROBE_EVENTS, "p:b/left p1:inner.livepatch+3\n", append=True)
    with pytest.raises(LoadError, match=r"`-:b/left p1:inner\.livepatch\+3`"):
        scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    assert survey(scene.host).patches == () and "p1" not in scene.host.kernel.modules


@pytest.mark.parametrize("length", [1, 62, 63, 64, 120])
def test_a_place_with_a_name_of_any_length_is_removed(length: int, scene: SimulatedScene) -> None:
    event = Event(False, "b", "named", Spot("waits", "f" * length, 7))
    scene.host.registry.add(event)
    for line in event.removals:
        with suppress(OSError):
            scene.host.write(KPROBE_EVENTS, line, append=True)
    assert "named" not in scene.host.read(KPROBE_EVENTS)


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


def test_a_bare_name_is_the_original_s_alone(scene: SimulatedScene, made: Probed) -> None:
    """As before the patch; and each version's code has a name of its own, the `.cold` parts' too."""
    scene.host.write(KPROBE_EVENTS, "p:b/before outer\n", append=True)
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    scene.host.write(KPROBE_EVENTS, "p:b/during outer\n", append=True)
    scene.host.write(KPROBE_EVENTS, "r:b/returns outer\n", append=True)
    for event in ("before", "during", "returns"):
        scene.host.write(f"{TRACING}/events/b/{event}/enable", "1")
    scene.call(1, 4)
    assert [scene.host.hits(f"b/{event}") for event in ("before", "during")] == [4, 4]
    names = scene.host.kernel.symbols.of_module
    assert {"inner.livepatch", "inner.cold.livepatch", "outer.livepatch"} <= set(names["p1"])
    functions = {name for name in names["p1"] if name in names[NAME]}
    assert functions <= {"init_module", "cleanup_module", "__this_module"}


def test_a_bare_name_is_ambiguous_where_a_version_has_it(scene: SimulatedScene, made: Probed) -> None:
    """As in the first modules of ours, and in those of others."""
    scene.live().load(named_as_originals(made.build(0, 1, "p1")), "p1.ko")
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
    steps = [step for step in host.steps if "p1:inner.livepatch" in step or step == "insert"]
    assert steps[0] == "insert" and len(steps) == 2
    scene.call(3, 3)
    assert scene.counts() == scene.expected


def test_the_name_of_an_event_is_as_long_as_the_kernel_has_it(scene: SimulatedScene) -> None:
    planting = probe(scene.host, f"{NAME}:inner+0", ProbeOptions(name=f"b/{'x' * NAME_MOST}"))
    assert planting.event == f"b/{'x' * NAME_MOST}"
    with pytest.raises(UsageError, match="at most 63 characters"):
        probe(scene.host, f"{NAME}:inner", ProbeOptions(name=f"b/{'x' * (NAME_MOST + 1)}"))


def test_events_by_address_are_followed_each_into_the_next_version(scene: SimulatedScene, release_61: str) -> None:
    """While a version has its name, the original is taken by address, of which the kernel shows a hash."""
    pair = vmlinux_objects(release_61)
    first, second = (
        build([diff(pair.old, pair.new)], Objects(opened(release_61)), ModulePlan(name)) for name in ("v1", "v2")
    )
    assert first is not None and second is not None
    older = named_as_originals(first.content)
    file, _ = seq_file(scene.host.kernel)
    (function,) = manifest_of(older, "v1.ko").functions
    rows = [row for row in function.map or () if row.old_offset and not row.new_part][:4]
    scene.live().load(older, "v1.ko")
    for number, row in enumerate(rows[:2]):
        planting = probe(scene.host, f"version_proc_show+{row.old_offset}", ProbeOptions(name=f"b/a{number}"))
        assert planting.places[0] == f"version_proc_show+{row.old_offset}" and len(planting.places) == 2
    for number, row in enumerate(rows[2:], 2):  # the original's place of these is planted when the version goes
        scene.host.write(KPROBE_EVENTS, f"p:b/a{number} v1:{function.symbol}+{row.new_offset}\n", append=True)
        scene.host.write(f"{TRACING}/events/b/a{number}/enable", "1")
    for calls in (1, 2):
        if calls == 2:
            scene.live().unload("v1")
        scene.host.call("version_proc_show", file, 0)
        assert [scene.host.hits(f"b/a{number}") for number in range(4)] == [calls] * 4
    assert scene.host.read(KPROBE_EVENTS).count(" 0x") == 4
    outcome = scene.live().load(second.content, "v2.ko")
    assert outcome.reports == () and len([row for row in outcome.moved if " v2:" in row.line]) == 4
    scene.host.call("version_proc_show", file, 0)
    shown = {event.event: event.places for event in survey(scene.host).events if event.event.startswith("b/a")}
    assert shown["b/a0"] == (
        f"version_proc_show+{rows[0].old_offset}",
        f"v2:{function.name}.livepatch+{rows[0].new_offset}",
    )
    scene.live().unload("v2")
    scene.host.call("version_proc_show", file, 0)
    assert [scene.host.hits(f"b/a{number}") for number in range(4)] == [4] * 4


def test_a_second_place_by_address_of_one_event_is_refused(scene: SimulatedScene) -> None:
    start = scene.host.kernel.symbols.find_function(f"{NAME}:inner")
    scene.host.write(KPROBE_EVENTS, f"p:b/twice {start:#x}\n", append=True)
    with pytest.raises(OSError, match="exists"):
        scene.host.write(KPROBE_EVENTS, f"p:b/twice {start + 5:#x}\n", append=True)


def test_a_probe_that_counts_nothing_says_so(scene: SimulatedScene, made: Probed) -> None:
    """An argument that is not proven the same in the version that runs: only the original is planted."""
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    lone = probe(scene.host, f"{NAME}:outer+{behind(made)}", ProbeOptions(("s=$stack1:u64",), "b/lone"))
    assert not lone.counts and [row.code for row in lone.reports] == ["arguments"]
    assert probe(scene.host, f"{NAME}:outer", ProbeOptions(("s=$stack1:u64",), "b/entry2")).counts
    assert probe(scene.host, f"{NAME}:inner+{offsets(made)['mid']}", ProbeOptions(name="b/both")).counts


def test_an_offset_inside_an_instruction_is_called_so(scene: SimulatedScene) -> None:
    with pytest.raises(LoadError, match="inside an instruction"):
        probe(scene.host, f"{NAME}:inner+1", ProbeOptions(name="b/inside"))


def test_what_a_plain_insmod_does_to_probes_is_told(scene: SimulatedScene, made: Probed) -> None:
    scene.host.insert(made.build(0, 1, "p1"))
    (patch,) = survey(scene.host).patches
    assert (patch.module, patch.state, patch.phase) == ("p1", "enabled", None)
    assert {row["code"] for row in patch.reports} == {"lost-code"}
    assert {row["probe"] for row in patch.reports} == {f"b/{name}" for name in PROBES} - {"b/entry", "b/ret"}


def test_one_that_was_disabled_by_hand_is_not_called_replaced(scene: SimulatedScene, made: Probed) -> None:
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    scene.host.write("/sys/kernel/livepatch/p1/enabled", "0")
    assert [(patch.state, patch.phase) for patch in survey(scene.host).patches] == [("disabled", "enabled")]
    scene.live().unload("p1")


def test_a_report_stands_once_in_the_status_of_versions_on_each_other(
    scene: SimulatedScene, made: Probed, tmp_path: Path
) -> None:
    first = tmp_path / "p1.ko"
    first.write_bytes(made.build(0, 1, "p1"))
    inside = scene.host.kernel.symbols.find_function(f"{NAME}:inner") + offsets(made)["mid"]
    scene.host.registry.register_kprobe(inside)
    scene.live().load(first.read_bytes(), "p1.ko")
    scene.live().load(made.build(1, 2, "p2", on=first), "p2.ko")
    told = [row for patch in survey(scene.host).patches for row in patch.reports]
    assert [row["code"] for row in told] == ["not-ours-to-move"]


def test_addresses_that_are_not_shown_at_all_are_not_guessed(scene: SimulatedScene) -> None:
    """Before the kernel has a key for its hashes."""
    planted = [Event(False, "b", f"early{number}", Spot.parse(f"{0x1000 + number:#x}")) for number in range(2)]

    class Early(KillingHost):
        def read(self, path: str) -> str:
            text = super().read(path)
            early = "".join(f"p:b/early{number} 0x(____ptrval____)\n" for number in range(2))
            return text + early if path == KPROBE_EVENTS else text

    host = Early(scene.host, 1000)
    trail = read_trail(host)
    assert learn_addresses(host, trail, planted).addresses == {}
    assert observe(host, trail).plan().additions == ()

"""Trials, from success through every kind of failure, and how they are shown."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from builder.acquire.source import fetch_source
from builder.binary.kernel import Kernel
from builder.errors import InputError
from builder.image.guest import MachineConfig
from builder.image.trial import PHASES, Step, TrialPlan, TrialReport, trial
from builder.report.trial import render_trial
from tests.conftest import needed
from tests.guest.campaign import campaign
from tests.guest.conftest import compiled

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]
VALUE = "/sys/module/guest_target/parameters/value"
LOUD = VALUE.replace("target", "loud")


def shown(report: TrialReport) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_trial(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def outputs(report: TrialReport, index: int = 0) -> list[str]:
    return [report.commands[index].answers[phase].output for phase in ("before", "with", "after")]


def names(report: TrialReport) -> list[str]:
    return [step.name for step in report.steps]


@pytest.mark.long_for(release="6.12")
def test_a_patch_of_vmlinux(kernel: Kernel, built: Mapping[str, Path]) -> None:
    events: list[Step | str] = []
    plan = TrialPlan(commands=("cat /proc/cmdline", "exit 4"))
    report = trial(built["guest_patch_vmlinux"], kernel, plan, progress=events.append)
    assert report.ok and report.failure is None and report.dmesg == ""
    before, patched, after = outputs(report)
    assert patched == "patched command line\n" and before == after and "console=ttyS0" in before
    assert [answer.status for answer in report.commands[1].answers.values()] == [4, 4, 4]
    assert set(report.taints) == {"O", "E", "K"} and report.warnings == () and report.objects == ()
    assert [event for event in events if isinstance(event, Step)] == list(report.steps)
    assert [event for event in events if isinstance(event, str)] == names(report)
    assert names(report)[0] == "boot" and names(report)[-1] == "power off"
    assert "patched command line" in shown(report) and "(status 4)" in shown(report)
    assert "before: exit 4 (status 4)" in shown(report)
    assert [step.name for step in report.steps if not step.ok] == [f"{when}: exit 4" for when in PHASES]
    document = json.loads(json.dumps(report.as_json()))
    assert document["ok"] is True and document["kernel"] == kernel.release
    assert document["commands"][0]["with"]["output"] == "patched command line\n"


@pytest.mark.long_for(release="6.12", late=False)
@pytest.mark.parametrize("late", [False, True])
def test_a_patch_of_a_module_loaded_before_or_after_it(kernel: Kernel, built: Mapping[str, Path], late: bool) -> None:
    plan = TrialPlan(
        commands=(f"cat {VALUE}",),
        objects={"guest_target": built["guest_target"]},
        late_load=late,
        config=MachineConfig(kaslr=late),
    )
    report = trial(built["guest_patch"], kernel, plan)
    assert report.ok, report.failure
    # A module that was loaded anew begins to count anew.
    assert outputs(report) == ["original 1\n", "patched\n", "original 1\n" if late else "original 2\n"]
    order = names(report)
    last_load = len(order) - 1 - order[::-1].index("load guest_target")
    assert (last_load > order.index("insmod guest_patch")) == late
    assert order.count("load guest_target") == 1 + late == order.count("rmmod guest_target")
    assert report.objects == ("guest_target",)


@pytest.mark.long_for(release="6.12")
@pytest.mark.parametrize("late", [False, True])
def test_modules_that_use_the_target_and_what_it_always_says(
    kernel: Kernel, built: Mapping[str, Path], late: bool
) -> None:
    """What needs it goes before it; its own errors and warnings, said of old, are not the livepatch's."""
    objects = {name: built[name] for name in ("guest_loud", "guest_user")}
    plan = TrialPlan(commands=(f"cat {LOUD}",), objects=objects, load=("guest_user",), late_load=late)
    report = trial(built["guest_patch_loud"], kernel, plan)
    assert report.ok, report.failure
    assert outputs(report) == ["original\n", "patched\n", "original\n"] and report.warnings == ()
    order = names(report)
    assert [name for name in order if name.startswith("rmmod")] == [
        *(["rmmod guest_user", "rmmod guest_loud"] * late),
        "rmmod guest_patch_loud",
        "rmmod guest_user",
        "rmmod guest_loud",
    ]
    assert order.count("load guest_user") == 1 + late and all(step.ok for step in report.steps)


@pytest.mark.parametrize("late", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_target_that_stays_is_a_note(kernel_61: Kernel, built_61: Mapping[str, Path], late: bool) -> None:
    objects = {"guest_stays": built_61["guest_stays"]}
    plan = TrialPlan(commands=(f"cat {LOUD.replace('loud', 'stays')}",), objects=objects, late_load=late)
    report = trial(built_61["guest_patch_stays"], kernel_61, plan)
    assert report.ok, report.failure
    assert outputs(report) == ["original\n", "patched\n", "original\n"]
    left = [step for step in report.steps if not step.ok]
    assert [step.name for step in left] == ["rmmod guest_stays"] * (1 + late)
    assert left[0].note == "it stays: Resource temporarily unavailable"
    assert f"- {left[0].seconds:6.2f} s  rmmod guest_stays (it stays" in shown(report)


def test_a_target_that_the_guest_does_not_load_is_not_tried(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    """A failure where nothing else is patched, else a note: the livepatch is loaded where it is not there."""
    objects = {"guest_absent": built_61["guest_absent"]}
    report = trial(built_61["guest_patch_absent"], kernel_61, TrialPlan(objects=objects))
    assert report.failure is not None and report.untried == ("guest_absent",)
    assert "nothing of it could be tried: module guest_absent was not loaded: No such device" in report.failure
    report = trial(built_61["guest_patch_vmlinux"], kernel_61, TrialPlan(objects=objects))
    assert report.ok and "not tried, for this guest does not load it: guest_absent" in shown(report)
    assert [step.name for step in report.steps if not step.ok] == ["load guest_absent"] * 2


def test_an_object_that_nobody_has(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    """The livepatch refers to nothing of it, so that only the kernel can tell what it is for."""
    report = trial(built_61["guest_patch"], kernel_61)
    assert not report.ok and report.failure is not None
    missing = "what it patches besides vmlinux: module guest_target is not in the tree"
    assert report.failure.startswith(missing)


def test_on_top_of_an_earlier_livepatch(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    objects = {name: built_61[name] for name in ("guest_patch", "guest_target")}
    plan = TrialPlan(commands=(f"cat {VALUE}", "cat /proc/cmdline"), objects=objects)
    report = trial(built_61["guest_patch_vmlinux"], kernel_61, plan)
    assert report.ok, report.failure
    assert outputs(report) == ["patched\n"] * 3
    assert outputs(report, 1)[1] == "patched command line\n"
    assert names(report).index("load guest_patch") < names(report).index("insmod guest_patch_vmlinux")
    assert "rmmod guest_patch" in names(report)


def test_more_modules_first(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    plan = TrialPlan(commands=("grep -c ^dummy /proc/modules",), load=("dummy",))
    report = trial(built_61["guest_patch_vmlinux"], kernel_61, plan)
    assert report.ok and outputs(report) == ["1\n"] * 3


def test_a_module_that_is_no_livepatch(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    report = trial(built_61["guest_target"], kernel_61, TrialPlan(commands=(f"cat {VALUE}",)))
    assert report.ok
    assert outputs(report)[1] == "original 1\n" and report.commands[0].answers["after"].status == 1
    assert set(report.taints) == {"O", "E"}


def test_a_module_for_another_kernel(kernel_61: Kernel, release_612: str) -> None:
    report = trial(compiled(release_612)["guest_target"], kernel_61)
    assert report.failure is not None
    assert report.failure.startswith("insmod guest_target: the kernel refused it")
    assert report.steps[-1].name == "insmod guest_target" and not report.steps[-1].ok
    assert report.dmesg and "the kernel's log" in shown(report)


def test_a_task_that_holds_the_transition_up_is_named(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    command = f"echo s > {VALUE} & sleep 0.3"
    plan = TrialPlan(commands=(command,), objects={"guest_target": built_61["guest_target"]}, timeout=5)
    report = trial(built_61["guest_patch_stuck"], kernel_61, plan)
    assert report.failure is not None
    assert "not done within 5 s, held up by" in report.failure
    assert " sh " in report.failure and "target_set+" in report.failure
    assert "starting patching transition" in report.dmesg


def test_a_warning_with_the_patch_fails_and_one_before_it_does_not(
    kernel_61: Kernel, built_61: Mapping[str, Path]
) -> None:
    objects = {"guest_target": built_61["guest_target"]}
    report = trial(built_61["guest_patch"], kernel_61, TrialPlan(commands=(f"echo w > {VALUE}",), objects=objects))
    assert report.failure is not None and "target_set" in report.failure
    assert len(report.warnings) == 2 and "W" in report.taints and "cut here" in report.dmesg
    once = f"grep -q patched {VALUE} || [ -e /tmp/done ] || echo w > {VALUE}; touch /tmp/done"
    report = trial(built_61["guest_patch"], kernel_61, TrialPlan(commands=(once,), objects=objects))
    assert report.ok, report.failure


def test_a_crash_keeps_what_came_before(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    objects = {"guest_target": built_61["guest_target"]}
    crash = f"grep -q original {VALUE} || echo o > {VALUE}"
    report = trial(built_61["guest_patch"], kernel_61, TrialPlan(commands=(f"cat {VALUE}", crash), objects=objects))
    assert report.failure is not None and "NULL pointer dereference" in report.failure
    assert [set(run.answers) for run in report.commands] == [{"before", "with"}, {"before"}]
    assert "target_set" in report.dmesg
    text = shown(report)
    assert "failed at with: " in text and "patched" in text


def test_a_command_that_hangs(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    report = trial(built_61["guest_patch_vmlinux"], kernel_61, TrialPlan(commands=("sleep 100",), timeout=2))
    assert report.failure == "before: sleep 100: not done within 2 s: sleep 100"


def test_a_machine_that_cannot_be_started(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    plan = TrialPlan(config=MachineConfig(cpu="Abacus"))
    report = trial(built_61["guest_patch_vmlinux"], kernel_61, plan)
    assert report.failure is not None and report.failure.startswith("boot: the guest ended")
    assert "Abacus" in report.failure and "Abacus" in report.dmesg and names(report) == ["boot"]


def test_what_cannot_be_tried_at_all(kernel_61: Kernel, tmp_path: Path) -> None:
    junk = tmp_path / "junk.ko"
    junk.write_bytes(b"\x7fELF, but not for long")
    for source in (junk, tmp_path / "absent.ko", b"", b"text"):
        with pytest.raises(InputError):
            trial(source, kernel_61)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_module_of_the_campaign_in_both_orders(kernel_61: Kernel) -> None:
    """One that never leaves, and that others use (tests/guest/campaign.py has the rest)."""
    with needed():
        fetch_source(kernel_61.release)
    (row,) = campaign(kernel_61, ["sctp"], seed=1)
    assert (row.why_not_built, row.failures) == ("", ())
    assert any(note.startswith("rmmod sctp: it stays") for note in row.notes)

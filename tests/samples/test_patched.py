"""Both samples in stock kernels: what they say before, with and after the live patch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary.kernel.target import Kernel
from builder.image.guest import MachineConfig
from builder.image.trial import PHASES, TrialPlan, TrialReport, trial
from samples.demo import PROC, STEPS, TURN_KEY
from samples.objects import TARGET_NAME, TargetObjects, target_objects, vmlinux_objects

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ALLOWED_TAINTS = set("OEK")
"""Out of tree, unsigned, live patch."""
MODES = f"echo f > {PROC}; echo s > {PROC}; echo r > {PROC}; grep mode {PROC}"


@dataclass(frozen=True, slots=True)
class Built:
    """What `bespoke build` came to."""

    status: int
    document: dict[str, Any]
    module: Path
    stderr: str


def build(old: Path, new: Path, kernel: str, module: Path, *options: str) -> Built:
    """`bespoke build --json`, as a script would call it."""
    words = [sys.executable, "-m", "builder", "build", old, new, "--kernel", kernel, "-o", module, "--json", *options]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, timeout=120)
    document = json.loads(done.stdout) if done.stdout else {}
    return Built(done.returncode, document, module, done.stderr)


def build_target(made: TargetObjects, module: Path) -> Built:
    return build(made.old, made.new, made.release, module, "--object", f"{TARGET_NAME}={made.module}")


def said(report: TrialReport) -> list[dict[str, str]]:
    """Per command: phase -> what it printed. Asserts that the trial went well and quietly."""
    assert report.failure is None, f"{report.failure}\n{report.dmesg}"
    assert report.warnings == ()
    assert set(report.taints) <= ALLOWED_TAINTS
    return [{phase: run.answers[phase].output for phase in PHASES} for run in report.commands]


def facts(text: str) -> dict[str, str]:
    """The lines of the target's file by their first word."""
    rows = (line.split(maxsplit=1) for line in text.splitlines() if not line.startswith("sh:"))
    return {row[0]: row[1].rstrip() for row in rows if len(row) == 2}


@pytest.fixture(scope="module")
def target(release: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[TargetObjects, Built]:
    made = target_objects(release)
    built = build_target(made, tmp_path_factory.mktemp("target") / "target.ko")
    assert built.status == 0, built.stderr or built.document
    return made, built


@pytest.mark.guest
@pytest.mark.long_for(release="6.1", kaslr=True)
@pytest.mark.long_for(release="6.12", kaslr=False)
@pytest.mark.parametrize("kaslr", [False, True], ids=["pvh", "kaslr"])
def test_the_target_before_with_and_after(target: tuple[TargetObjects, Built], kaslr: bool) -> None:
    made, built = target
    plan = TrialPlan(
        commands=(STEPS, TURN_KEY, MODES),
        objects={TARGET_NAME: made.module},
        config=MachineConfig(kaslr=kaslr),
    )
    steps, key, modes = said(trial(built.module, Kernel.open(fetch_kernel(made.release).image), plan))
    before, patched, after = (facts(steps[phase]) for phase in PHASES)

    assert [before["version"], patched["version"], after["version"]] == [
        "old, quiet",
        "new, very quiet",
        "old, quiet",
    ]
    # Static variables and static locals are the original's throughout: by 1, then twice by 10, then by 1 again.
    assert [row["mode"] for row in (before, patched, after)] == [
        "rise, last step gave 1",
        "rise, last step gave 21",
        "rise, last step gave 22",
    ]
    assert [row["refused"] for row in (before, patched, after)] == ["1", "1", "2"]
    visits = [int(row["visits"]) for row in (before, patched, after)]
    assert visits[0] == 4 and visits == sorted(set(visits))
    # The switch, the label table and the exception table are each version's own.
    assert [row["weigh"].split()[4] for row in (before, patched, after)] == ["76", "6", "76"]
    assert [row["run"] for row in (before, patched, after)] == ["51", "55", "51"]
    assert [row["peek"] for row in (before, patched, after)] == [
        "42 here, -1 nowhere",
        "42 here, -14 nowhere",
        "42 here, -1 nowhere",
    ]
    # A new static local is the new version's.
    assert [row["shows"] for row in (before, patched, after)] == [
        "nobody counts them",
        "1 of the new version",
        "nobody counts them",
    ]
    # A jump label of the new code is turned with the key.
    assert [facts(key[phase])["version"] for phase in PHASES] == ["old, LOUD", "new, LOUD", "old, LOUD"]
    # The new code stores the address of rise(), and the unchanged mode_name() knows it.
    assert [facts(modes[phase])["mode"] for phase in PHASES] == [
        "rise, last step gave 999",
        "rise, last step gave 989",
        "rise, last step gave 988",
    ]


@pytest.mark.guest
@pytest.mark.long_for(release="6.12")
def test_the_target_may_come_after_its_patch(target: tuple[TargetObjects, Built]) -> None:
    made, built = target
    plan = TrialPlan(commands=(f"cat {PROC}",), objects={TARGET_NAME: made.module}, late_load=True)
    (shown,) = said(trial(built.module, Kernel.open(fetch_kernel(made.release).image), plan))
    # loaded for the first command, removed, and loaded again when the patch is there
    assert [facts(shown[phase])["version"] for phase in PHASES] == ["old, quiet", "new, very quiet", "old, quiet"]
    assert [facts(shown[phase])["visits"] for phase in PHASES[:2]] == ["1", "1"]


@pytest.mark.guest
@pytest.mark.long_for(release="6.1")
def test_a_warning_of_the_new_code_names_the_live_patch(target: tuple[TargetObjects, Built]) -> None:
    """The entry of the bug table that belongs to the new function is the one that is found."""
    made, built = target
    command = f"dmesg -c > /dev/null; echo w > {PROC}; dmesg | grep WARNING"
    plan = TrialPlan(commands=(command,), objects={TARGET_NAME: made.module})
    report = trial(built.module, Kernel.open(fetch_kernel(made.release).image), plan)
    answers = report.commands[0].answers
    assert "[bespoke_target]" in answers["before"].output
    assert "obey" in answers["with"].output and "[bespoke_target]" not in answers["with"].output


@pytest.mark.guest
@pytest.mark.long_for(kaslr=False)
@pytest.mark.parametrize("kaslr", [False, True], ids=["pvh", "kaslr"])
def test_proc_version_before_with_and_after(release_61: str, tmp_path: Path, kaslr: bool) -> None:
    pair = vmlinux_objects(release_61)
    built = build(pair.old, pair.new, release_61, tmp_path / "version.ko")
    assert built.status == 0, built.stderr or built.document
    plan = TrialPlan(commands=("cat /proc/version",), config=MachineConfig(kaslr=kaslr))
    (shown,) = said(trial(built.module, Kernel.open(fetch_kernel(release_61).image), plan))
    assert shown["before"] == shown["after"] and shown["before"].startswith(f"Linux version {release_61} ")
    first, second = shown["with"].splitlines()
    assert f"{first}\n" == shown["before"]
    assert second.startswith("This line was added while ") and int(second.split()[5]) > 1


def test_the_manifest_names_what_was_bound(target: tuple[TargetObjects, Built]) -> None:
    _, built = target
    functions = {row["name"] for row in built.document["functions"]}
    assert functions >= {"rise", "fall", "voice", "weigh", "run", "peek", "hear", "show", "obey"}
    assert "tick" not in functions and "mode_name" not in functions
    bound = {(row["object"], row["symbol"].split(".")[0]) for row in built.document["bindings"]}
    assert bound >= {(TARGET_NAME, name) for name in ("tick", "mode_name", "visits", "mode", "last", "calls", "rise")}
    calls = {row["symbol"] for row in built.document["bindings"] if row["symbol"].startswith("calls.")}
    assert len(calls) == 2


def test_equal_inputs_give_equal_bytes(target: tuple[TargetObjects, Built], tmp_path: Path) -> None:
    made, built = target
    again = build_target(made, tmp_path / built.module.name)
    assert again.module.read_bytes() == built.module.read_bytes()


def test_a_jump_label_on_a_key_of_the_patched_module_ships(release: str, tmp_path: Path) -> None:
    """The test of the key that stands for it is in no table (tests/emit/test_own_keys.py sees it work)."""
    made = target_objects(release, own_key=True)
    built = build_target(made, tmp_path / "own-key.ko")
    assert built.status == 0 and built.document["warnings"] == []
    assert "__jump_table" not in built.document["special_entries"]
    assert any(row["symbol"] == "loud_key" for row in built.document["bindings"])


def test_objects_of_another_kernel_are_refused_by_name(release_61: str, release_612: str, tmp_path: Path) -> None:
    pair = vmlinux_objects(release_61)
    built = build(pair.old, pair.new, release_612, tmp_path / "version.ko")
    assert built.status == 1 and not built.module.exists()
    assert any(row["code"] == "run-pre-mismatch" and row["symbol"] == "version_proc_show" for row in refusals(built))


def refusals(built: Built) -> list[Mapping[str, str]]:
    found: list[Mapping[str, str]] = built.document["refusals"]
    return found

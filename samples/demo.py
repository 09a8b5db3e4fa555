"""`make demo`: the samples from source to patch, in a stock kernel, with everything shown on the way.

What it builds stays in `build/demo`, so that each command that it shows can be
given again by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from builder.acquire.packages import fetch_kernel, newest_kernel
from builder.binary.kernel.target import Kernel
from builder.errors import BespokeError, GuestError, ToolError
from builder.image.derive import derive_state
from builder.image.trial import PHASES, Step, TrialPlan, TrialReport, trial
from builder.load.boot import boot
from samples.objects import TARGET_NAME, VMLINUX_PATCH, target_objects, vmlinux_objects
from samples.simulated import TARGET_CALLS, VERSION_CALLS, walk
from samples.stage import Stage

PLACE = Path("build/demo")
SERIES = "6.1"
CPU = "max"
PROC = f"/proc/{TARGET_NAME}"
STEPS = f"cd /proc; echo s > {TARGET_NAME}; echo S 2> /dev/null > {TARGET_NAME}; cat {TARGET_NAME}"
MARK = ("do_sys_openat2%return", "filename", "$retval", "--if", "$retval == -ENOTDIR")
MARK_COMMAND = "cat /proc/version/none"
TURN_KEY = f"K=kernel.bpf_stats_enabled; sysctl -q $K=1; head -n 1 {PROC}; sysctl -q $K=0"


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair of objects, where it lies and what is done with it in the guest."""

    name: str
    title: str
    old: Path
    new: Path
    commands: tuple[str, ...]
    modules: Mapping[str, Path]

    @property
    def output(self) -> Path:
        return PLACE / f"{self.name}.ko"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="samples.demo", description="Patch a running stock kernel, and watch.")
    parser.add_argument("--kernel", help=f"a release name (default: the newest of {SERIES} that the archive has)")
    parser.add_argument("--svg", type=Path, help="keep what was shown as a picture")
    options = parser.parse_args(arguments)
    stage = Stage()
    try:
        tell(stage, options.kernel)
    except BespokeError as error:
        stage.show(Text(f"demo: {error}", style="bold red"))
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    if options.svg is not None:
        stage.save_picture(options.svg, "bespoke")
    return 0


def tell(stage: Stage, wanted: str | None) -> None:
    """The whole demo, in order."""
    stage.chapter("1  A stock kernel, and two changes to it")
    kernel = get_kernel(stage, wanted)
    target, version = get_samples(stage, kernel)
    stage.say(
        "A change to the kernel itself. What it needs, no module may reach: "
        "neither [bold]linux_proc_banner[/] nor [bold]nr_threads[/] is exported."
    )
    stage.show(Padding(Syntax(hunks(VMLINUX_PATCH), "diff", theme="ansi_dark"), (0, 4, 1, 4)))
    stage.say("And a module that is loaded and has counted things, in an old and a new version (samples/target/).")

    stage.chapter("2  Two object files in, one module out: no kernel tree, no kbuild, no compiler")
    show_build(stage, version, kernel)
    with stage.pictured():
        show_build(stage, target, kernel)

    stage.chapter("3  Before, with and after, without a machine: the simulated kernel runs old and new code")
    with stage.pictured():
        show_check(stage, target, kernel)
    show_simulated(stage, version, target, kernel)

    stage.chapter("4  The same on the kernel as Debian ships it, in a guest")
    show_trial(stage, version, kernel)
    with stage.pictured():
        show_trial(stage, target, kernel)

    stage.chapter("5  What cannot be done is refused, with the reason")
    show_refusal(stage, version, kernel)

    stage.chapter("6  And any line of the source recorded, with what the compiler knows there: a mark")
    with stage.pictured():
        show_mark(stage, kernel)
    stage.say(
        f"The modules are in [bold]{PLACE}[/]; every command above can be given again "
        "([bold].venv/bin/bespoke[/], or [bold]. .venv/bin/activate[/] first)."
    )


def get_kernel(stage: Stage, wanted: str | None) -> Kernel:
    with stage.step("the kernel's package") as found:
        release = wanted or newest_kernel(SERIES)
        tree = fetch_kernel(release)
        found.append(f"linux-image-{release} {tree.version}, unmodified")
    with stage.step("read its image: symbols, exports, types") as found:
        kernel = Kernel.open(tree.image)
        found.append(kernel.vermagic)
    return kernel


def get_samples(stage: Stage, kernel: Kernel) -> tuple[Sample, Sample]:
    """The module, and the change to vmlinux."""
    shutil.rmtree(PLACE, ignore_errors=True)
    with stage.step(f"compile {TARGET_NAME}, old and new") as found:
        target = target_sample("target", kernel, (STEPS, TURN_KEY))
        found.append("against the kernel's headers")
    with stage.step("compile fs/proc/version.o, old and new") as found:
        pair = vmlinux_objects(kernel.release)
        old, new = keep(pair.old, "version/old.o"), keep(pair.new, "version/new.o")
        found.append("from exactly this kernel's source")
    return target, Sample("version", pair.path, old, new, ("cat /proc/version",), {})


def target_sample(name: str, kernel: Kernel, commands: tuple[str, ...]) -> Sample:
    made = target_objects(kernel.release)
    old, new = keep(made.old, f"{name}/old.o"), keep(made.new, f"{name}/new.o")
    module = keep(made.module, f"{name}/{made.module.name}")
    return Sample(name, TARGET_NAME, old, new, commands, {TARGET_NAME: module})


def keep(file: Path, name: str) -> Path:
    """A copy of a cached file where a person can find it."""
    place = PLACE / name
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(file, place))


def hunks(patch: Path) -> str:
    """The lines of a patch from its first hunk on."""
    text = patch.read_text()
    return text[text.index("--- ") :].rstrip()


def bespoke(*words: str | Path) -> tuple[int, dict[str, Any]]:
    """Run the command with `--json`; its exit status and its document."""
    command = [sys.executable, "-m", "builder", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return done.returncode, json.loads(done.stdout)
    except json.JSONDecodeError:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ToolError(f"bespoke {words[0]}: {said[-1]}") from None


def build_command(sample: Sample, kernel: Kernel) -> list[str | Path]:
    words: list[str | Path] = ["build", sample.old, sample.new, "--kernel", kernel.release]
    for name, path in sample.modules.items():
        words += ["--object", f"{name}={path}"]
    return [*words, "-o", sample.output]


def show_build(stage: Stage, sample: Sample, kernel: Kernel) -> None:
    """The build as one would type it; what changed, and where each reference of the new code leads."""
    words = build_command(sample, kernel)
    stage.command(["bespoke", *words])
    _, found = bespoke("diff", sample.old, sample.new)
    started = time.monotonic()
    status, manifest = bespoke(*words)
    seconds = time.monotonic() - started
    if status:
        raise ToolError(f"bespoke build: exit status {status}: {reasons_of(manifest)}")
    size = sample.output.stat().st_size
    stage.done(f"built {sample.output}", seconds, f"{size:,} bytes, start of the interpreter included")
    stage.show("")
    stage.table(
        "What changed",
        ["function", ">old size", ">new size", "why it is in the module"],
        [
            [row["name"], row["old_size"], row["new_size"], reason_of(row["name"], found)]
            for row in manifest["functions"]
        ],
    )
    stage.table(
        "What the new code uses of the original",
        ["object", "symbol", ">sympos", ">references", "which is"],
        bound_rows(manifest, {row[0]: row[1] for row in found["originals"]}),
    )


def bound_rows(manifest: Mapping[str, Any], kinds: Mapping[str, str]) -> list[list[object]]:
    """Each original symbol once, with the number of references to it."""
    replaced = {row["name"] for row in manifest["functions"]}
    bound = Counter((row["object"], row["symbol"], row["sympos"]) for row in manifest["bindings"])
    rows: list[list[object]] = []
    for (owner, symbol, sympos), count in sorted(bound.items()):
        if symbol in replaced:
            kind = "function, replaced by this module"
        else:
            kind = {"function": "function, unchanged", "object": "variable, with its value"}.get(
                kinds.get(symbol, ""), "of another file, not exported"
            )
        rows.append([owner, symbol, sympos, count, kind])
    return rows


def show_check(stage: Stage, sample: Sample, kernel: Kernel) -> None:
    """The pre-flight: what the kernel's own loader would make of the module."""
    words: list[str | Path] = ["check", sample.output, "--kernel", kernel.release]
    words += [f"--object={name}={path}" for name, path in sample.modules.items()]
    stage.command(["bespoke", *words])
    started = time.monotonic()
    status, found = bespoke(*words)
    if status:
        raise ToolError(f"bespoke check: exit status {status}")
    sites = ", ".join(f"{name} {count}" for name, count in found["cpus"][0]["patched"].items())
    stage.done("loaded into the simulated kernel", time.monotonic() - started, f"taints {' '.join(found['taints'])}")
    stage.say(
        f"{sum(found['relocations'].values())} relocations written, {len(found['bindings'])} originals bound; "
        f"sites patched: {sites}"
    )


def show_simulated(stage: Stage, version: Sample, target: Sample, kernel: Kernel) -> None:
    """What the functions themselves say, executed: no VM, no root."""
    with stage.step("boot the simulated kernel") as found:
        simulated = boot(kernel, derive_state(kernel, CPU))
        found.append(f"its own early code decides for CPU model {CPU}")
    with stage.step("call, load, call, unload, call"):
        shown = walk(simulated, version.output, VERSION_CALLS)
        numbers = walk(simulated, target.output, TARGET_CALLS, list(target.modules.values()))
    stage.show("")
    texts = [name for name, row in {**shown, **numbers}.items() if "\n" in row[PHASES[0]]]
    for name in texts:
        stage.versions(name, {**shown, **numbers}[name])
    stage.table(
        "Functions, called one by one",
        ["call", *(f">{phase}" for phase in PHASES)],
        [[name, *(row[phase] for phase in PHASES)] for name, row in numbers.items() if name not in texts],
    )


def show_trial(stage: Stage, sample: Sample, kernel: Kernel) -> None:
    """The module in a guest: each step, then what each command said before, with and after."""
    command: list[str | Path] = ["bespoke", "try", sample.output, "--kernel", kernel.release]
    for name, path in sample.modules.items():
        command += ["--object", f"{name}={path}"]
    for text in sample.commands:
        command += ["--run", text]
    stage.command(command)
    report = run_trial(stage, sample.output, kernel, TrialPlan(commands=sample.commands, objects=sample.modules))
    for run in report.commands:
        stage.show("")
        stage.versions(f"$ {run.command}", {phase: run.answers[phase].output for phase in PHASES})
    warned = f"{len(report.warnings)} kernel warnings" if report.warnings else "no kernel warning"
    stage.say(f"{warned}; taints: {', '.join(f'{k} ({v})' for k, v in report.taints.items())}")


def run_trial(stage: Stage, module: Path, kernel: Kernel, plan: TrialPlan) -> TrialReport:
    # the commands themselves stand above and below
    names = {
        f"{phase}: {command}": f"{phase}: command {number}"
        for phase in PHASES
        for number, command in enumerate(plan.commands, 1)
    }
    with stage.console.status("") as status:

        def progress(event: Step | str) -> None:
            if isinstance(event, str):
                status.update(Text(event))
            elif event.ok:
                stage.done(names.get(event.name, event.name), event.seconds)

        report = trial(module, kernel, plan, progress=progress)
    if report.failure is not None:
        stage.show(Text(report.dmesg, style="dim"))
        raise GuestError(report.failure, where=module)
    return report


def show_refusal(stage: Stage, sample: Sample, kernel: Kernel) -> None:
    """A patch for code that does not run: the change the other way round."""
    sample = replace(sample, name=f"{sample.name}-reversed", old=sample.new, new=sample.old)
    words = build_command(sample, kernel)
    stage.command(["bespoke", *words])
    status, document = bespoke(*words)
    if status != 1 or sample.output.exists():
        raise ToolError(f"this build should have been refused, but ended with status {status}")
    for row in document["refusals"]:
        stage.show(Padding(Text.assemble(("✗ ", "red"), (row["code"], "bold red"), f"  {row['message']}"), (0, 2)))
        stage.show(Padding(Text(row["advice"], style="dim"), (0, 4)))
    stage.show("")
    stage.say(f"exit status {status}, no output file")


def show_mark(stage: Stage, kernel: Kernel) -> None:
    """A mark at each return of a function, what it did to the code, and what it records in a guest."""
    output = PLACE / "opens.ko"
    words: list[str | Path] = ["mark", *MARK, "--kernel", kernel.release, "-o", output]
    stage.command(["bespoke", *words])
    started = time.monotonic()
    status, found = bespoke(*words)
    if status:
        raise ToolError(f"bespoke mark: exit status {status}: {reasons_of(found)}")
    stage.done(f"built {output}", time.monotonic() - started, "from the source of exactly this kernel")
    stage.show("")
    stage.table(
        "What it did to the code",
        ["function", "marked", ">instructions kept", ">moved", ">gone", ">added"],
        [
            [row["function"], f"{found['marks'][0]['file']}:{','.join(map(str, found['marks'][0]['lines']))}",
             *(row["instructions"][what] for what in ("kept", "moved", "gone", "added"))]
            for row in found["effects"]
        ],
    )  # fmt: skip
    stage.command(["bespoke", "try", output, "--kernel", kernel.release, "--run", MARK_COMMAND])
    report = run_trial(stage, output, kernel, TrialPlan(commands=(MARK_COMMAND,)))
    stage.show("")
    stage.table(
        f"$ {MARK_COMMAND}",
        ["mark", "task", *report.records[0].fields] if report.records else ["nothing was recorded"],
        [[row.mark, f"{row.comm}-{row.pid}", *row.fields.values()] for row in report.records],
    )
    stage.say("No variable is optimized out there, and a mark that nobody watches costs a test and a branch.")


def reason_of(function: str, found: Mapping[str, Any]) -> str:
    """Why a function is in the module; a cold part, because it is one with its parent."""
    parents = [parent for parent, parts in found["children"].items() if function in parts]
    reason = found["reasons"].get(function) or f"part of {', '.join(parents)}"
    return re.sub(r"\((\S+) -> \1\)", r"(\1)", reason)  # one place when both versions have it on one line


def reasons_of(document: Mapping[str, Any]) -> str:
    return "; ".join(f"{row['code']}: {row['message']}" for row in document.get("refusals", ()))


if __name__ == "__main__":
    # relative paths are shown, and should be short
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main())

"""Prove what works on some kernels, and write it into the table of support.

    python -m tests.proven [--suite SUITE] [--modules N] [--steps a,b] RELEASE...
    python -m tests.proven --page       # docs/kernels.md anew from the table

Each kernel is fetched; its row in builder/supported.json is replaced, and docs/kernels.md follows. A kernel takes from
5 to 15 minutes: its source is prepared, sample fixes are built, checked and tried in a guest, a probe is followed, and
the simulated loader is compared with the kernel's own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builder.acquire.compile import AS_USUAL
from builder.acquire.outside import ModuleSource
from builder.acquire.packages import fetch_kernel
from builder.acquire.patchfile import apply_all, read_patch
from builder.acquire.source import SourceTree
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError, InputError, RefusedError, ToolError
from builder.image.guest import Guest
from builder.image.machine import KPROBE_EVENTS, TRACING, GuestHost
from builder.image.trial import TrialPlan, trial
from builder.operate.live import Live
from builder.pipeline import ModulePlan, patch
from builder.preflight.check import Checker
from builder.preflight.fidelity import choose, compare
from builder.report.kernels import NOT_PROVEN, markdown
from builder.supported import STEPS, Proven
from samples.fixes import Fix, all_fixes
from samples.objects import TARGET, TARGET_NAME, VMLINUX_PATCH, target_objects
from tests.conftest import ROOT

TABLE: Final = ROOT / "builder/supported.json"
PAGE: Final = ROOT / "docs/kernels.md"
HEAD: Final = """# Kernels

What was proven on which kernel of the distribution, by `python -m tests.proven RELEASE...`; `bespoke kernels` shows the
same table. A kernel of a series that is not listed may work as well: a warning says that nobody has tried.

- *decode*: symbols read from the image.
- *patch*: of the two samples (a function of vmlinux, a module out of the tree) and the sample fixes whose text fits the
  source and whose file is part of this kernel, those whose module was built from the patch by the compiler that built
  the kernel; "no source" where the suite serves no source of this version.
- *build*: of those, the modules that the simulated loader accepts without a finding.
- *check*: of modules of the kernel's own tree, those that the simulated loader accepts without a finding.
- *identical*: of modules, with all that they need, those that the simulated loader makes as the guest's kernel made
  them, every byte; with the state of that guest (captured), and with what image and CPU model alone tell (derived).
- *try*: of these modules, those that did in a guest what they should, before, with and after, without a warning.
- *kprobes*: hits of a probe in a replaced function, of the calls before, with and after the livepatch.

"""
NO_SOURCE: Final = "no source"
OF_BUILT: Final = ("build", "try", "kprobes")
"""Steps of the modules that were built from source."""
CHECKED: Final = 100
"""Modules of the kernel's tree that are checked."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A source patch that is proven: what it shows, the source that it changes, and the module out of the tree."""

    fix: Fix
    source: SourceTree | ModuleSource
    objects: Mapping[str, Path] = field(default_factory=dict)

    def read(self, path: str) -> bytes | None:
        file = self.source.root / path
        return file.read_bytes() if file.is_file() else None


class Proof:
    """One kernel being proven; what is built is kept for the steps that come later."""

    def __init__(self, kernel: Kernel, work: Path, modules: int) -> None:
        self.kernel = kernel
        self.work = work
        self.modules = modules
        self.built: dict[Path, Subject] = {}
        self.fitting = 0
        self.told: list[str] = []

    def steps(self) -> dict[str, Callable[[], str]]:
        """In the order in which they are made: later ones use what earlier ones have built."""
        return {
            "decode": self.decode,
            "patch": self.patch,
            "build": self.build,
            "check": self.check,
            "identical": self.identical,
            "try": self.tries,
            "kprobes": self.kprobes,
        }

    def decode(self) -> str:
        return f"{sum(1 for _ in self.kernel.all_symbols())} symbols"

    def subjects(self, tree: SourceTree) -> Iterator[Subject]:
        """The two samples, then the fixes, all for a prepared `tree`."""
        release = self.kernel.release
        yield Subject(Fix(VMLINUX_PATCH, "", "cat /proc/version", (), "^Linux version", "added while"), tree)
        shown = Fix(TARGET / "next-version.patch", "", f"cat /proc/{TARGET_NAME}", (), "^version *old", "^version *new")
        objects = {TARGET_NAME: target_objects(release).module}
        yield Subject(shown, ModuleSource.of(TARGET, [TARGET_NAME], release), objects)
        for fix in all_fixes(release):
            yield Subject(fix, tree)

    def patch(self) -> str:
        try:
            tree = find_source(None, SourceTarget(self.kernel.release, banner=self.kernel.banner))
        except (InputError, ToolError) as error:
            self.told.append(f"no source: {error}")
            return NO_SOURCE
        subjects = list(self.subjects(tree))
        for subject in subjects:
            name = subject.fix.path.stem.replace("-", "_")
            path, objects = self.work / f"{name}.ko", Objects(self.kernel, subject.objects)
            try:
                apply_all(read_patch(subject.fix.path), subject.read)
            except InputError as error:
                self.told.append(f"{name} does not fit this source: {error}")
                continue
            self.fitting += 1
            try:
                made = patch([subject.fix.path], subject.source, objects, ModulePlan(f"fix_{name}"), AS_USUAL)
            except BespokeError as error:
                if isinstance(error, RefusedError) and {row.code for row in error.refusals} == {"patch-not-built"}:
                    self.told.append(f"{name} is no part of this kernel: {error}")
                    self.fitting -= 1
                else:
                    self.told.append(f"{name} is not built: {error}")
                continue
            if made.module is not None:
                path.write_bytes(made.module.content)
                self.built[path] = subject
        return f"{len(self.built)} of {self.fitting}"

    def build(self) -> str:
        """The modules that were built, in the simulated kernel."""
        objects = {name: path for subject in self.built.values() for name, path in subject.objects.items()}
        checker = Checker(self.kernel, objects)
        good = 0
        for path in self.built:
            report = checker.check(path)
            good += not report.exit_status
            self.told += [f"{path.stem}: {finding.message}" for finding in (*report.refusals, *report.problems)]
        return f"{good} of {len(self.built)}"

    def check(self) -> str:
        checker, good = Checker(self.kernel), 0
        paths = choose(self.kernel, CHECKED)
        for path in paths:
            report = checker.check(path)
            good += not report.exit_status
            self.told += [f"{path.name}: {finding.message}" for finding in (*report.refusals, *report.problems)]
        return f"{good} of {len(paths)}"

    def identical(self) -> str:
        captured, derived = compare(self.kernel, choose(self.kernel, self.modules))
        self.told += [f"{d.state}: {why}" for d in (captured, derived) for why in d.failed.values()]
        self.told += [f"derived: {row.module}: {row.cause}" for row in derived.differences]
        return f"{captured.identical} of {captured.modules}, derived {derived.identical}"

    def tries(self) -> str:
        good = 0
        for path, subject in self.built.items():
            fix, plan = subject.fix, TrialPlan((subject.fix.command,), subject.objects, subject.fix.load)
            try:
                report = trial(path, self.kernel, plan)
            except BespokeError as error:
                self.told.append(f"{path.stem}: {error}")
                continue
            faults = fix.faults(dict(report.commands[0].answers))
            faults = [*([report.failure] if report.failure else []), *report.warnings, *faults]
            self.told += [f"{path.stem}: {fault}" for fault in faults]
            good += not faults
        return f"{good} of {len(self.built)}"

    def kprobes(self) -> str:
        """A probe some way into the function of the sample for vmlinux, over load and unload."""
        path = next(path for path, subject in self.built.items() if subject.fix.path == VMLINUX_PATCH)
        function, hits, calls = "version_proc_show", 0, 0
        offset = self._offset(function)
        with Guest(self.kernel) as guest:
            host = GuestHost(guest)
            host.write(KPROBE_EVENTS, f"p:proof/here {function}+{offset}\n", append=True)
            host.write(f"{TRACING}/events/proof/here/trigger", "hist:keys=common_type")
            host.write(f"{TRACING}/events/proof/here/enable", "1")
            live, mark = Live(host), guest.mark()
            for step in (
                lambda: None,
                lambda: live.load(path.read_bytes(), path.name),
                lambda: live.unload(f"fix_{path.stem}"),
            ):
                step()
                guest.check("cat /proc/version >/dev/null; cat /proc/version >/dev/null")
                calls += 2
            found = re.search(r"Hits: (\d+)", host.read(f"{TRACING}/events/proof/here/hist"))
            hits = int(found[1]) if found is not None else 0
            self.told += guest.warnings(mark)
        return f"{hits} of {calls}"

    def _offset(self, function: str) -> int:
        """That of the instruction in the middle."""
        from iced_x86 import Decoder

        symbol = self.kernel.symbol(function)
        code = self.kernel.read(symbol.address, self.kernel.size_of(symbol))
        rows = list(Decoder(64, code))
        return sum(row.len for row in rows[: len(rows) // 2])


def prove(release: str, suite: str, modules: int, steps: Sequence[str], say: Callable[[str], None]) -> Proven:
    kernel = Kernel.open(fetch_kernel(release, suite=suite or None).image)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(kernel, Path(folder), modules)
        for step, made in proof.steps().items():
            if step in steps:
                try:
                    found[step] = made() if step not in OF_BUILT or proof.built else NOT_PROVEN
                except (BespokeError, StopIteration) as error:
                    found[step] = "no"
                    proof.told.append(f"{step}: {type(error).__name__}: {error}")
                say(f"{release}: {step}: {found[step]}")
        for line in dict.fromkeys(proof.told):
            say(f"{release}: {line}")
    before = next((row.steps for row in table() if row.release == release), {})
    merged = {**before, **found}
    date = datetime.date.today().isoformat()
    return Proven(
        release,
        suite or kernel_suite(release),
        date,
        {step: merged[step] for step in STEPS if merged.get(step, NOT_PROVEN) != NOT_PROVEN},
    )


def kernel_suite(release: str) -> str:
    """The group of suites that the cached kernel came from; those of the machine have no name."""
    record = (fetch_kernel(release).root / ".package").read_text().split()
    return record[3] if len(record) > 3 else "the machine's"


def table() -> list[Proven]:
    """The rows as they are now: another proof may have written its own meanwhile."""
    return [Proven(**row) for row in json.loads(TABLE.read_text())]


def write(rows: Sequence[Proven]) -> None:
    """The table and the page, by series, flavour and release."""
    numbers = {row.release: [int(n) for n in re.findall(r"\d+", row.release)] for row in rows}
    ordered = sorted(
        rows, key=lambda row: (numbers[row.release][:2], row.flavour != "standard", row.flavour, row.release)
    )
    content = [{"release": r.release, "suite": r.suite, "date": r.date, "steps": dict(r.steps)} for r in ordered]
    TABLE.write_text(json.dumps(content, indent=1) + "\n")
    PAGE.write_text(HEAD + markdown(ordered))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proven", description=__doc__.split("\n")[0])
    parser.add_argument("releases", nargs="*", metavar="RELEASE")
    parser.add_argument("--suite", default="", help="where they come from (default: what their names say)")
    parser.add_argument("--modules", type=int, default=60, metavar="N", help="how many are compared (default: 60)")
    parser.add_argument("--steps", default=",".join(STEPS), help="which steps to make (default: all)")
    parser.add_argument("--page", action="store_true", help="write the page anew, prove nothing")
    options = parser.parse_args(arguments)
    for release in options.releases:
        try:
            row = prove(release, options.suite, options.modules, options.steps.split(","), print)
        except BespokeError as error:
            print(f"{release}: {error}", file=sys.stderr)
            continue
        write([row, *(other for other in table() if other.release != release)])
    if options.page:
        write(table())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

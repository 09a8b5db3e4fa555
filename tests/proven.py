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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from builder.acquire.compile import AS_USUAL
from builder.acquire.packages import fetch_kernel
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError, InputError
from builder.image.guest import Guest
from builder.image.machine import KPROBE_EVENTS, TRACING, GuestHost
from builder.image.trial import TrialPlan, trial
from builder.operate.live import Live
from builder.pipeline import ModulePlan, patch
from builder.preflight.check import Checker
from builder.preflight.fidelity import choose, compare
from builder.report.kernels import markdown
from builder.supported import STEPS, Proven, proven
from samples.fixes import Fix, all_fixes
from tests.conftest import ROOT

TABLE: Final = ROOT / "builder/supported.json"
PAGE: Final = ROOT / "docs/kernels.md"
HEAD: Final = """# Kernels

What was proven on which kernel of the distribution, by `python -m tests.proven RELEASE...`; `bespoke kernels` shows the
same table. A kernel of a series that is not listed may work as well: a warning says that nobody has tried.

- *decode*: symbols read from the image. *build*, *patch*: of the sample fixes whose text fits this source, those whose
  module was built from the source patch by the compiler that built the kernel.
- *check*: of modules of the kernel's own tree, those that the simulated loader accepts without a finding.
- *identical*: of modules, with all that they need, those that the simulated loader makes as the guest's kernel made
  them, every byte; with the state of that guest (captured), and with what image and CPU model alone tell (derived).
- *try*: of the fixes, those that did in a guest what they should, before, with and after, without a warning.
- *kprobes*: hits of a probe in a replaced function, of the calls before, with and after the livepatch.

"""
CHECKED: Final = 100
"""Modules of the kernel's tree that are checked."""


class Proof:
    """One kernel being proven; what is built is kept for the steps that come later."""

    def __init__(self, kernel: Kernel, work: Path, modules: int) -> None:
        self.kernel = kernel
        self.work = work
        self.modules = modules
        self.built: dict[Path, Fix] = {}
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

    def patch(self) -> str:
        tree = find_source(None, SourceTarget(self.kernel.release, banner=self.kernel.banner))
        for fix in all_fixes(self.kernel.release):
            path = self.work / f"{fix.path.stem.replace('-', '_')}.ko"
            try:
                made = patch([fix.path], tree, Objects(self.kernel), ModulePlan(f"fix_{path.stem}"), AS_USUAL)
            except InputError as error:
                self.told.append(f"{fix.path.stem} does not fit this source: {error}")
                continue
            except BespokeError as error:
                self.told.append(f"{fix.path.stem} is not built: {error}")
                self.fitting += 1
                continue
            self.fitting += 1
            if made.module is not None:
                path.write_bytes(made.module.content)
                self.built[path] = fix
        return f"{len(self.built)} of {self.fitting}"

    def build(self) -> str:
        """The modules that were built, in the simulated kernel."""
        checker = Checker(self.kernel)
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
        for path, fix in self.built.items():
            try:
                report = trial(path, self.kernel, TrialPlan(commands=(fix.command,), load=fix.load))
            except BespokeError as error:
                self.told.append(f"{path.stem}: {error}")
                continue
            faults = fix.faults(dict(report.commands[0].answers))
            faults = [*([report.failure] if report.failure else []), *report.warnings, *faults]
            self.told += [f"{path.stem}: {fault}" for fault in faults]
            good += not faults
        return f"{good} of {len(self.built)}"

    def kprobes(self) -> str:
        """A probe some way into the function of the meminfo fix, over load and unload."""
        path = next(path for path in self.built if "meminfo" in path.stem)
        function, hits, calls = "meminfo_proc_show", 0, 0
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
                guest.check("cat /proc/meminfo >/dev/null; cat /proc/meminfo >/dev/null")
                calls += 2
            found = re.search(r"Hits: (\d+)", host.read(f"{TRACING}/events/proof/here/hist"))
            hits = int(found[1]) if found is not None else 0
            self.told += guest.warnings(mark)
        return f"{hits} of {calls}"

    def _offset(self, function: str) -> int:
        """The tenth instruction's."""
        from iced_x86 import Decoder

        symbol = self.kernel.symbol(function)
        code = self.kernel.read(symbol.address, self.kernel.size_of(symbol))
        rows = list(Decoder(64, code))
        return sum(row.len for row in rows[:10])


def prove(release: str, suite: str, modules: int, steps: Sequence[str], say: Callable[[str], None]) -> Proven:
    kernel = Kernel.open(fetch_kernel(release, suite=suite or None).image)
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        proof = Proof(kernel, Path(folder), modules)
        for step, made in proof.steps().items():
            if step in steps:
                try:
                    found[step] = made()
                except (BespokeError, StopIteration) as error:
                    found[step] = "no"
                    proof.told.append(f"{step}: {type(error).__name__}: {error}")
                say(f"{release}: {step}: {found[step]}")
        for line in dict.fromkeys(proof.told):
            say(f"{release}: {line}")
    before = next((row.steps for row in proven() if row.release == release), {})
    merged = {**before, **found}
    date = datetime.date.today().isoformat()
    return Proven(
        release, suite or kernel_suite(release), date, {step: merged[step] for step in STEPS if step in merged}
    )


def kernel_suite(release: str) -> str:
    """The group of suites that the cached kernel came from; those of the machine have no name."""
    record = (fetch_kernel(release).root / ".package").read_text().split()
    return record[3] if len(record) > 3 else "the machine's"


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
    rows = {row.release: row for row in proven()}
    for release in options.releases:
        try:
            rows[release] = prove(release, options.suite, options.modules, options.steps.split(","), print)
        except BespokeError as error:
            print(f"{release}: {error}", file=sys.stderr)
            continue
        write([*rows.values()])
    if options.page:
        write([*rows.values()])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

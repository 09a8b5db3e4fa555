"""Broken livepatches in a stock kernel and in `check`: both must say the same of each.

    python -m tests.preflight.acceptance [--suite SUITE] RELEASE...

For each kernel a sample fix is built from its source by its own compiler and broken in every way of
`broken.py`. What the kernel refuses, `check` must refuse; what it takes and then complains of, or does not survive,
`check` must have a finding for. The exit status is 0 where nothing disagrees. About five minutes each.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.compile import AS_USUAL
from builder.acquire.packages import fetch_kernel
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import GuestError, InputError
from builder.image.guest import Guest, MachineConfig
from builder.pipeline import ModulePlan, patch
from builder.preflight.check import Checker, CheckReport
from samples.objects import TARGET_NAME, VMLINUX_PATCH
from tests.preflight.broken import broken

KLP_SECTION, FUNCTION = ".klp.rela.vmlinux..text", "version_proc_show"
"""Of the module that the sample fix becomes."""
SYMBOL = ".klp.sym.vmlinux.linux_proc_banner,0"


@dataclass(frozen=True)
class Subject:
    """A livepatch of ours, intact and broken, the kernel that it is for, and the module that it patches, if any."""

    kernel: Kernel
    forms: dict[str, bytes]
    function: str
    target: Path | None = None

    @property
    def objects(self) -> dict[str, Path]:
        return {TARGET_NAME: self.target} if self.target is not None else {}

    def checker(self) -> Checker:
        return Checker(self.kernel, self.objects)


@dataclass(frozen=True)
class Verdict:
    """What became of one form: in the kernel (`accepted` is None where it did not live to tell) and in `check`."""

    name: str
    accepted: bool | None
    complaints: tuple[str, ...]
    report: CheckReport

    @property
    def kind(self) -> str:
        if self.accepted is False and not self.complaints:
            return "refused"
        return "regretted" if self.complaints or self.accepted is None else "accepted"

    @property
    def disagreement(self) -> str:
        """What both say, "" where it is the same."""
        is_foreseen = bool(self.report.problems) if self.complaints else self.accepted is not None
        if is_foreseen and self.accepted in (None, self.report.kernel_accepts):
            return ""
        said = [finding.message for finding in (*self.report.refusals, *self.report.problems)]
        ours = f"check {self.report.kernel_accepts} {said[:2]}"
        return f"{self.name}: the kernel {self.accepted} {self.complaints[:1]}, {ours}"


class Kernels:
    """A guest, another one after anything that it may not have survived."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._guest: Guest | None = None

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        if self._guest is not None:
            self._guest.__exit__(None, None, None)
            self._guest = None

    def load(self, content: bytes) -> tuple[bool | None, tuple[str, ...]]:
        """Whether insmod succeeded (None where it did not live to tell), and what the kernel complained of.

        Unloading included.
        """
        if self._guest is None:
            self._guest = Guest(
                self._subject.kernel, MachineConfig(panic_on_oops=False, cmdline="no_timer_check")
            ).__enter__()
            if self._subject.target is not None:
                assert self._guest.insmod(self._subject.target, TARGET_NAME).ok
        guest, mark = self._guest, self._guest.mark()
        accepted: bool | None = None
        try:
            guest.put("/run/x.ko", content)
            answer = guest.run("insmod /run/x.ko", timeout=20)
            accepted = answer.ok if answer.status < 128 else None
            if accepted:
                name = guest.loaded()[0]
                guest.disable_livepatch(name, 20)
                guest.run(f"rmmod {name}", timeout=20)
            said = guest.warnings(mark)
            complaints = tuple(w for w in said if any(s in w for s in ("BUG", "Oops", "WARNING", "fault")))
        except GuestError as error:
            complaints = (str(error),)
        if complaints:
            self.drop()
        return accepted, complaints


def from_source(kernel: Kernel) -> Subject:
    """The sample fix of fs/proc/version.c, built from the kernel's own source; raises as `patch` does."""
    tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    made = patch([VMLINUX_PATCH], tree, Objects(kernel), ModulePlan("broken_patch"), AS_USUAL)
    if made.module is None:
        raise InputError("changes nothing", where=VMLINUX_PATCH)
    return Subject(kernel, broken(made.module.content, KLP_SECTION, SYMBOL, FUNCTION), FUNCTION)


def verdicts(subject: Subject, kernels: Kernels, reports: dict[str, CheckReport]) -> Iterator[Verdict]:
    for name, content in subject.forms.items():
        yield Verdict(name, *kernels.load(content), reports[name])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.preflight.acceptance", description=__doc__.split("\n")[0])
    parser.add_argument("releases", nargs="+", metavar="RELEASE")
    parser.add_argument("--suite", default="", help="where they come from (default: what their names say)")
    options = parser.parse_args(arguments)
    status = 0
    for release in options.releases:
        subject = from_source(Kernel.open(fetch_kernel(release, suite=options.suite or None).image))
        checker, kinds, wrong = subject.checker(), Counter[str](), 0
        with Kernels(subject) as kernels:
            reports = {name: checker.check(content) for name, content in subject.forms.items()}
            for verdict in verdicts(subject, kernels, reports):
                kinds[verdict.kind] += 1
                if verdict.disagreement:
                    wrong += 1
                    print(f"{release}: {verdict.disagreement}", flush=True)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(f"{release}: {len(subject.forms)} forms, {counts}, {wrong} disagree", flush=True)
        status |= wrong > 0
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

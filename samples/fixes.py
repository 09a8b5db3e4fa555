"""Ten patches in the spirit of real fixes: each built from source, tried in a guest, and told in a table.

    python -m samples.fixes [--kernel K] [PATCH ...]

Each patch under `patches/` says in its head what to do with it: `Run:` a
command for the guest, `Load:` modules that the command needs, `Before:` and
`With:` a line of the command's answer (regular expressions) without and with
the patch. The answer with the patch must have the second line, the answers
before and after it the first line and not the second. What changed too much in
newer kernels stands below `linux-N/` again, N being the first number of the release.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.acquire.compile import AS_USUAL
from builder.acquire.packages import newest_kernel
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.errors import BespokeError, InputError
from builder.image.guest import Answer
from builder.image.trial import TrialPlan, trial
from builder.pipeline import ModulePlan, patch

PATCHES = Path(__file__).resolve().parent / "patches"


@dataclass(frozen=True, slots=True)
class Fix:
    """One patch and what it shows."""

    path: Path
    title: str
    command: str
    load: tuple[str, ...]
    before: str
    after: str

    def faults(self, answers: dict[str, Answer]) -> list[str]:
        """What the answers (by phase) should have shown and did not; empty when all is well."""
        wanted = {"before": (self.before, self.after), "with": (self.after, ""), "after": (self.before, self.after)}
        found: list[str] = []
        for phase, (line, not_line) in wanted.items():
            text = answers[phase].output if phase in answers else ""
            if not re.search(line, text, re.MULTILINE):
                found.append(f"{phase}: no line like {line}")
            # A pattern that holds without the patch too tells nothing by its absence.
            if not_line and not_line != "^$" and re.search(not_line, text, re.MULTILINE):
                found.append(f"{phase}: a line like {not_line}")
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one patch: `functions` that it changed, seconds, and why it failed ("" if it did not)."""

    fix: Fix
    functions: tuple[str, ...]
    build_seconds: float
    try_seconds: float
    failure: str


def read_fix(path: Path) -> Fix:
    """Read a patch's head; `InputError` names what it lacks."""
    head = path.read_text().partition("\n--- ")[0].replace("\\\n", "")
    fields = dict(re.findall(r"^(Run|Load|Before|With): (.*)$", head, flags=re.MULTILINE))
    for name in ("Run", "Before", "With"):
        if name not in fields:
            raise InputError(f"its head has no line {name}:", where=path)
    return Fix(
        path=path,
        title=head.strip().split("\n", 1)[0],
        command=fields["Run"],
        load=tuple(fields.get("Load", "").split()),
        before=fields["Before"],
        after=fields["With"],
    )


def all_fixes(release: str = "6") -> list[Fix]:
    """The patches of the project for a release, in the order of their names."""
    folders = (PATCHES, PATCHES / f"linux-{release.partition('.')[0]}")
    found = {path.name: path for folder in folders for path in folder.glob("*.patch")}
    return [read_fix(found[name]) for name in sorted(found)]


def make_and_try(fix: Fix, kernel: Kernel, folder: Path) -> Outcome:
    """Build the module of one patch into `folder` and try it; an error becomes the outcome's failure."""
    functions: tuple[str, ...] = ()
    started = built = time.monotonic()
    try:
        tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
        path = folder / f"{fix.path.stem.replace('-', '_')}.ko"
        made = patch([fix.path], tree, Objects(kernel), ModulePlan(f"fix_{path.stem}"), AS_USUAL)
        if made.module is None:
            raise InputError("changes nothing", where=fix.path)
        path.write_bytes(made.module.content)
        functions = made.functions
        built = time.monotonic()
        report = trial(path, kernel, TrialPlan(commands=(fix.command,), load=fix.load))
        faults = fix.faults(dict(report.commands[0].answers))
        failure = "; ".join([*([report.failure] if report.failure else []), *report.warnings, *faults])
    except BespokeError as error:
        failure = str(error)
    ended = time.monotonic()
    return Outcome(
        fix=fix,
        functions=functions,
        build_seconds=(built if functions else ended) - started,
        try_seconds=ended - built if functions else 0.0,
        failure=failure,
    )


def main(arguments: Sequence[str]) -> int:
    """Build and try; the exit status is 0 when every patch did what its head says, else 1."""
    parser = argparse.ArgumentParser(prog="python -m samples.fixes", description=__doc__.split("\n")[0])
    parser.add_argument("patches", nargs="*", type=Path, metavar="PATCH", help="default: all of samples/patches")
    parser.add_argument("--kernel", metavar="K", help="image or release (default: the newest 6.1)")
    options = parser.parse_args(arguments)
    console = Console()
    table = Table("patch", "functions", "built", "tried", "result", box=None)
    status = 0
    try:
        kernel = Kernel.open(options.kernel or newest_kernel("6.1"))
        fixes = [read_fix(path) for path in options.patches] or all_fixes(kernel.release)
        with tempfile.TemporaryDirectory() as folder:
            for fix in fixes:
                outcome = make_and_try(fix, kernel, Path(folder))
                names = ", ".join(outcome.functions[:2])
                more = f" and {len(outcome.functions) - 2} more" if len(outcome.functions) > 2 else ""
                table.add_row(
                    fix.path.stem,
                    names + more,
                    f"{outcome.build_seconds:.1f} s",
                    f"{outcome.try_seconds:.1f} s",
                    outcome.failure or "as it should be",
                )
                status |= bool(outcome.failure)
                console.print(f"{fix.path.stem}: {outcome.failure or 'as it should be'}")
    except BespokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    console.print(table)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a command costs as a whole process, imports included: CPU seconds, the median of some runs.

Beside it stand the same command of the run before (`docs/speed.md`) and, as ratios of medians, other tools that are
named in the environment: `BESPOKE_CREATE_DIFF_OBJECT`, kpatch's program, given the object's own symbol table;
`BESPOKE_KPATCH_BUILD` and `BESPOKE_KLP_BUILD`, whole command lines that make a module of the same patch (`PATCH`
stands for its path). With `--keep` the figures are kept in `docs/speed.md`.
"""

from __future__ import annotations

import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from builder.acquire.packages import fetch_kernel
from builder.errors import BespokeError
from samples.fixes import PATCHES
from tests.bench.kept import Figures, keep, last
from tests.conftest import ROOT, data_root
from tests.running.pairs import RELEASE, places

PEER: Final = "BESPOKE_CREATE_DIFF_OBJECT"
BUILDERS: Final = {"kpatch-build": "BESPOKE_KPATCH_BUILD", "klp-build": "BESPOKE_KLP_BUILD"}
REPEATS: Final = 5
PAIRS: Final = 4000
DIFFERENT: Final = 20
PAIR: Final = "crypto__af_alg"
PATCH: Final = PATCHES / "01-meminfo-string.patch"
HEADER: Final = PATCHES / "06-proc-task-inline.patch"
AIMS: Final = {
    "--help": 0.1,
    "diff": 0.15,
    "build": 0.35,
    "check": 0.5,
    "patch, made before": 0.4,
    "header patch, made before": 1.0,
}
"""Seconds."""
LOSS: Final = 1.1
"""So many times what the last run took is a loss."""


def spent(words: Sequence[str | Path], repeats: int = REPEATS) -> float:
    """The median of the CPU seconds of a process and of those that it waits for; the first run is not counted."""
    rows = []
    # Bytecode is kept, as an installed package has it, whatever the environment says.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(rows[1:])


def many(place: Path, pairs: Sequence[Path]) -> tuple[Path, Path]:
    """Two trees of `PAIRS` objects each, of which `DIFFERENT` differ."""
    rows = [pairs[number % len(pairs)] for number in range(PAIRS)]
    return _trees(place, rows, lambda number: number % (PAIRS // DIFFERENT) == 0)


def changed(place: Path, pairs: Sequence[Path]) -> tuple[Path, Path]:
    """Two trees of the pairs, all of which differ."""
    return _trees(place, pairs, lambda number: True)


def _trees(place: Path, pairs: Sequence[Path], differs: Callable[[int], bool]) -> tuple[Path, Path]:
    sides = place / "old", place / "new"
    for number, pair in enumerate(pairs):
        for side in sides:
            target = side / f"{number // 100}" / f"{number}.o"
            target.parent.mkdir(parents=True, exist_ok=True)
            name = "patched.o" if side.name == "new" and differs(number) else "orig.o"
            target.symlink_to(pair / name)
    return sides


def peer(program: str, pair: Path, place: Path, repeats: int = REPEATS) -> float:
    """What create-diff-object takes for one pair."""
    symbols, versions = place / "symbols", place / "Module.symvers"
    symbols.write_text(subprocess.run(["readelf", "-sW", pair / "orig.o"], capture_output=True, text=True).stdout)
    versions.write_text("")
    files = (pair / "orig.o", pair / "patched.o", "vmlinux", symbols, versions, "fix", place / "output.o")
    return spent([program, *files], repeats)


@dataclass(frozen=True, slots=True)
class Measured:
    """The seconds of commands, and of other tools by the command that each stands beside."""

    seconds: Figures
    peers: Mapping[str, tuple[str, float]]


def measured(found: Mapping[str, Path], place: Path, told: Console) -> Measured:
    """Everything that can be measured here; what cannot is told."""
    bespoke = (sys.executable, "-m", "builder")
    seconds: dict[str, float] = {}
    peers: dict[str, tuple[str, float]] = {}
    program, builders = os.environ.get(PEER), {name: os.environ.get(key) for name, key in BUILDERS.items()}
    old, new = found[PAIR] / "orig.o", found[PAIR] / "patched.o"
    seconds["--help"] = spent([*bespoke, "--help"])
    seconds["diff"] = spent([*bespoke, "diff", old, new, "--json"])
    seconds["diff, the same file"] = spent([*bespoke, "diff", old, old, "--json"])
    pairs = [p for kind in ("conformance/x86_64", "corpus/pairs") for p in sorted((data_root() / kind).glob("*"))]
    pairs += list(found.values())
    whole = spent([*bespoke, "diff", *changed(place / "changed", pairs), "--json"], 2)
    seconds["a changed pair of a tree"] = whole / len(pairs)
    seconds[f"diff of {PAIRS} pairs, {DIFFERENT} differ"] = spent(
        [*bespoke, "diff", *many(place / "many", list(found.values())), "--json"], 2
    )
    if program:
        peers["diff"] = ("create-diff-object", peer(program, found[PAIR], place))
        each = [peer(program, pair, place, 1) for pair in pairs]
        peers["a changed pair of a tree"] = ("create-diff-object", statistics.mean(each))
    else:
        told.print(f"create-diff-object: not measured ({PEER} names none)", markup=False)
    try:
        kernel = fetch_kernel(RELEASE).image
    except BespokeError as error:
        told.print(f"no kernel: {error}", markup=False)
        return Measured(seconds, peers)
    module = place / "fix.ko"
    seconds["build"] = spent([*bespoke, "build", old, new, "--kernel", kernel, "-o", module, "--json"])
    seconds["check"] = spent([*bespoke, "check", module, "--kernel", kernel, "--json"])
    for title, path in (("patch, made before", PATCH), ("header patch, made before", HEADER)):
        seconds[title] = spent([*bespoke, "patch", path, "--kernel", RELEASE, "-o", module, "--json"], 3)
    for name, command in builders.items():
        if command:
            words = [str(PATCH) if word == "PATCH" else word for word in shlex.split(command)]
            peers["patch, made before"] = (name, spent(words, 1))
        else:
            told.print(f"{name}: not measured ({BUILDERS[name]} names none)", markup=False)
    return Measured(seconds, peers)


def main(arguments: Sequence[str] = ()) -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    found = places(data_root())
    if PAIR not in found:
        console.print(f"not measured: no pair {PAIR} in {data_root()} (BESPOKE_DATA)", markup=False)
        return 0
    before = last()
    with tempfile.TemporaryDirectory(prefix="bespoke-bench-") as name, console.status("running commands"):
        rows = measured(found, Path(name), console)
    table = Table(title="CPU seconds of a whole process, median", box=None, title_justify="left")
    for title in ("command", "s", "aim", "last run", "ratio", "beside", "s there", "ratio to it"):
        table.add_column(title, justify="left" if title in ("command", "beside") else "right")
    losses = []
    for title, seconds in rows.seconds.items():
        cells = [title, f"{seconds:.3f}", f"{AIMS[title]:.2f}" if title in AIMS else ""]
        known = before.get(title)
        cells += [f"{known:.3f}", f"{seconds / known:.2f}"] if known else ["", ""]
        if known and seconds > LOSS * known:
            losses.append(title)
        other = rows.peers.get(title)
        cells += [other[0], f"{other[1]:.3f}", f"{seconds / other[1]:.1f}"] if other else ["", "", ""]
        table.add_row(*cells)
    console.print(table)
    if losses:
        console.print(f"a tenth or more slower than in the last run: {', '.join(losses)}", markup=False)
    if "--keep" in arguments:
        keep(rows.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

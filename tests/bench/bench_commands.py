"""What a command costs as a whole process, imports included: CPU and real seconds and memory, medians of five runs.

Beside it stand the same command of the run before (`docs/speed.md`) and, as ratios, what does the same otherwise: ten
calls instead of one, two processors instead of one, plain `diff` of the files, and other tools that are named in the
environment: `BESPOKE_CREATE_DIFF_OBJECT`, kpatch's program (`peers`), `BESPOKE_KPATCH_BUILD` and `BESPOKE_KLP_BUILD`,
whole command lines that make a module of the same patch (`PATCH` stands for its path). With `--keep` the figures are
kept in `docs/speed.md`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from builder.acquire.cache import cache_root
from builder.acquire.packages import fetch_kernel
from builder.errors import BespokeError
from samples.fixes import PATCHES
from tests.bench.bench_diff import pairs
from tests.bench.kept import keep, last
from tests.bench.peers import OWN, PROGRAM, DiffObject
from tests.bench.processes import Spent, spend, spent
from tests.conftest import data_root
from tests.running.pairs import ACCEPTED, RELEASE, places

BUILDERS: Final = {"kpatch-build": "BESPOKE_KPATCH_BUILD", "klp-build": "BESPOKE_KLP_BUILD"}
BESPOKE: Final = (sys.executable, "-m", "builder")
PAIRS: Final = 4000
DIFFERENT: Final = 20
PAIR: Final = "crypto__af_alg"
PATCH: Final = PATCHES / "01-meminfo-string.patch"
HEADER: Final = PATCHES / "06-proc-task-inline.patch"
MODULES: Final = 10
PREPARED: Final = frozenset(
    {"apt", "headers", "kernels", "locks", "outside", "packages", "source", "templates", "toolsets", "unpacked"}
)
"""What of the cache does not come of compiling and comparing."""
AIMS: Final = {
    "--help": 0.1,
    "diff": 0.15,
    "build": 0.35,
    "check": 0.5,
    "patch, made before": 0.4,
    "header patch, made before": 1.0,
    "patch of 10 fixes, made before": 0.42,
}
"""CPU seconds."""
REAL: Final = {"patch, new": 2.0}
"""Real seconds, on two processors."""
LOSS: Final = 1.1
"""So many times what the last run took is a loss."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What does the same otherwise, its seconds, and how many times as long ours takes."""

    name: str
    seconds: float
    ratio: float


@dataclass(slots=True)
class Measured:
    """What commands took by their titles, and beside some of them something else."""

    commands: dict[str, Spent] = field(default_factory=dict)
    beside: dict[str, list[Beside]] = field(default_factory=dict)
    added: dict[str, Spent] = field(default_factory=dict)
    """Each fix, in order, added to those before it in a module of all of them."""
    again: dict[str, Spent] = field(default_factory=dict)
    """The same modules when all fixes have been in one before."""

    def compare(self, title: str, name: str, seconds: float, *, real: bool = False) -> None:
        """Put `seconds` of something else beside a command: of CPU, or real ones."""
        ours = self.commands[title].real if real else self.commands[title].cpu
        self.beside.setdefault(title, []).append(Beside(name, seconds, ours / seconds))


def many(place: Path, found: Sequence[Path]) -> tuple[Path, Path]:
    """Two trees of `PAIRS` objects each, of which `DIFFERENT` differ."""
    rows = [found[number % len(found)] for number in range(PAIRS)]
    return _trees(place, rows, lambda number: number % (PAIRS // DIFFERENT) == 0)


def changed(place: Path, found: Sequence[Path]) -> tuple[Path, Path]:
    """Two trees of the pairs, all of which differ."""
    return _trees(place, found, lambda number: True)


def _trees(place: Path, found: Sequence[Path], differs: Callable[[int], bool]) -> tuple[Path, Path]:
    sides = place / "old", place / "new"
    for number, pair in enumerate(found):
        for side in sides:
            target = side / f"{number // 100}" / f"{number}.o"
            target.parent.mkdir(parents=True, exist_ok=True)
            name = "patched.o" if side.name == "new" and differs(number) else "orig.o"
            target.symlink_to(pair / name)
    return sides


def unmade(place: Path) -> dict[str, str]:
    """The environment of a cache with a prepared source, of which nothing was compiled yet; ours stays as it is."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for entry in cache_root().iterdir():
        if entry.name in PREPARED:
            (place / entry.name).symlink_to(entry)
    return {"BESPOKE_CACHE": str(place), "BESPOKE_CACHE_SIZE": ""}


def trees(found: Mapping[str, Path], place: Path, rows: Measured) -> None:
    """Trees of objects: the shared pairs, and many objects of which few differ, on one processor and on two."""
    every = [*pairs(data_root())]
    each = "a changed pair of a tree"
    whole = spent([*BESPOKE, "diff", *changed(place / "changed", every), "--json"])
    rows.commands[each] = Spent(whole.cpu / len(every), whole.real / len(every), whole.peak, whole.status)
    other = DiffObject.here(place)
    if other:
        least = [row.cpu for pair in every for _, row in other.spends(pair, 1)]
        rows.compare(each, OWN, statistics.mean(least))
    sides = many(place / "many", list(found.values()))
    one, two = f"diff of {PAIRS} pairs, {DIFFERENT} differ", "the same with -j2"
    rows.commands[one] = spent([*BESPOKE, "diff", *sides, "--json"])
    rows.compare(one, "diff -rq", spent(["diff", "-rq", *sides]).cpu)
    rows.commands[two] = spent([*BESPOKE, "diff", *sides, "-j2", "--json"])
    rows.compare(two, "-j1 (real s)", rows.commands[one].real, real=True)


def checks(found: Mapping[str, Path], kernel: Path, place: Path, rows: Measured) -> None:
    """Modules checked in one call, and in a call for each."""
    made: list[Path] = []
    for name, pair in found.items():
        module = place / f"{name}.ko"
        objects = [pair / "orig.o", pair / "patched.o"]
        if name not in ACCEPTED and len(made) < MODULES:
            spend([*BESPOKE, "build", *objects, "--kernel", kernel, "-o", module, "-q"])
            made += [module] if module.is_file() else []
    title = f"check of {len(made)} modules"
    rows.commands[title] = spent([*BESPOKE, "check", *made, "--kernel", kernel, "--json"])
    each = sum(spend([*BESPOKE, "check", module, "--kernel", kernel, "--json"]).cpu for module in made)
    rows.compare(title, f"{len(made)} calls", each)


def patches(place: Path, rows: Measured) -> None:
    """Source patches: made before, new, and one after the other added to a module of all, which is then made again."""
    end = ("--kernel", RELEASE, "-o", str(place / "fix.ko"), "--json")
    for title, path in (("patch, made before", PATCH), ("header patch, made before", HEADER)):
        rows.commands[title] = spent([*BESPOKE, "patch", path, *end])
    cache = place / "cache"
    environment = unmade(cache)
    rows.commands["patch, new"] = spent(
        [*BESPOKE, "patch", PATCH, *end], environment=environment, before=lambda: unmade(cache)
    )
    unmade(cache)
    fixes = sorted(PATCHES.glob("*.patch"))
    modules: dict[str, list[str | Path]] = {
        fixes[count - 1].stem: [*BESPOKE, "patch", *fixes[:count], *end] for count in range(1, len(fixes) + 1)
    }
    for name, words in modules.items():
        rows.added[name] = spend(words, environment)
    for name, words in modules.items():
        rows.again[name] = spent(words, environment=environment)
    title = f"patch of {len(fixes)} fixes, made before"
    first, *_, rows.commands[title] = rows.again.values()
    rows.compare(title, f"the first of {len(fixes)}", first.cpu)


def measured(found: Mapping[str, Path], place: Path, told: Console) -> Measured:
    """Everything that can be measured here; what cannot is told."""
    rows = Measured()
    old, new = found[PAIR] / "orig.o", found[PAIR] / "patched.o"
    rows.commands["--help"] = spent([*BESPOKE, "--help"])
    rows.commands["diff"] = spent([*BESPOKE, "diff", old, new, "--json"])
    if other := DiffObject.here(place, whole=True):
        for name, row in other.spends(found[PAIR]):
            rows.compare("diff", name, row.cpu)
    else:
        told.print(f"create-diff-object: not measured ({PROGRAM} names none)", markup=False)
    rows.commands["diff, the same file"] = spent([*BESPOKE, "diff", old, old, "--json"])
    trees(found, place, rows)
    try:
        kernel = fetch_kernel(RELEASE).image
    except BespokeError as error:
        told.print(f"no kernel: {error}", markup=False)
        return rows
    module = place / "fix.ko"
    rows.commands["build"] = spent([*BESPOKE, "build", old, new, "--kernel", kernel, "-o", module, "--json"])
    rows.commands["check"] = spent([*BESPOKE, "check", module, "--kernel", kernel, "--json"])
    checks(found, kernel, place, rows)
    patches(place, rows)
    for name, variable in BUILDERS.items():
        if command := os.environ.get(variable):
            words = [str(PATCH) if word == "PATCH" else word for word in shlex.split(command)]
            rows.compare("patch, new", name, spent(words, 1).cpu)
        else:
            told.print(f"{name}: not measured ({variable} names none)", markup=False)
    return rows


def show(rows: Measured, before: Mapping[str, float], console: Console) -> None:
    """The tables, and what became slower."""
    table = Table(title="Whole processes, medians", box=None, title_justify="left")
    for title in ("command", "CPU s", "aim", "last", "ratio", "real s", "MiB", "beside", "s", "ratio"):
        table.add_column(title, justify="left" if title in ("command", "beside") else "right")
    losses = []
    for title, row in rows.commands.items():
        known = before.get(title)
        cells = [title, f"{row.cpu:.3f}", f"{AIMS[title]:.2f}" if title in AIMS else ""]
        cells += [f"{known:.3f}", f"{row.cpu / known:.2f}"] if known else ["", ""]
        cells += [f"{row.real:.2f}{f' of {REAL[title]:.0f}' if title in REAL else ''}", f"{row.peak:.0f}"]
        if known and row.cpu > LOSS * known:
            losses.append(title)
        first, *more = [[b.name, f"{b.seconds:.3f}", f"{b.ratio:.2f}"] for b in rows.beside.get(title, [])] or [[]]
        table.add_row(*cells, *first)
        for line in more:
            table.add_row(*[""] * len(cells), *line)
    console.print(table)
    if rows.added:
        growing = Table(title="Added to one module", box=None, title_justify="left")
        for title in ("fix", "CPU s", "real s", "made before"):
            growing.add_column(title, justify="left" if title == "fix" else "right")
        for title, row in rows.added.items():
            growing.add_row(title, f"{row.cpu:.1f}", f"{row.real:.1f}", f"{rows.again[title].cpu:.3f}")
        console.print(growing)
    failed = [title for title, row in (rows.commands | rows.added | rows.again).items() if row.status not in (0, 1, 3)]
    if failed:
        console.print(f"failed: {', '.join(failed)}", markup=False)
    if losses:
        console.print(f"a tenth or more slower than in the last run: {', '.join(losses)}", markup=False)


def main(arguments: Sequence[str] = ()) -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    found = places(data_root())
    if PAIR not in found:
        console.print(f"not measured: no pair {PAIR} in {data_root()} (BESPOKE_DATA)", markup=False)
        return 0
    with tempfile.TemporaryDirectory(prefix="bespoke-bench-") as name, console.status("running commands"):
        rows = measured(found, Path(name), console)
    show(rows, last(), console)
    if "--keep" in arguments:
        keep({title: row.cpu for title, row in rows.commands.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

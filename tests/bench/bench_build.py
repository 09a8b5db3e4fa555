"""How much CPU a build takes.

Each pair of the shared data that belongs to a running kernel is built in a
process of its own, forked after all imports, so that what is measured is the
work for this pair: reading, comparing, binding, emitting, assembling (the
assembler's own process is counted) and reading back. The kernel's facts are cached.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import builder
from builder.acquire.packages import KernelTree, fetch_kernel
from builder.binary.kernel import Kernel
from builder.errors import BespokeError
from tests.conftest import data_root

REPEATS = 3
OUTCOMES = {0: "built", 1: "refused", 2: "error", 3: "unchanged"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One pair: the exit status, the least CPU seconds of all runs, the bytes of the module."""

    name: str
    status: int
    seconds: float
    size: int


def main() -> int:
    sets = sorted(data_root().glob("running-*/pairs"))
    if not sets:
        print(f"no pairs of a running kernel in {data_root()} (set BESPOKE_DATA)", file=sys.stderr)
    import_everything()
    for place in sets:
        release = f"{place.parent.name.removeprefix('running-')}-amd64"
        try:
            tree = fetch_kernel(release)
        except BespokeError as error:
            print(f"{place.parent.name}: {error}", file=sys.stderr)
            continue
        # the first look at a kernel decodes it; a name is asked for so that nothing is left to do
        Kernel.open(tree.image).symbols_named("vfs_read")
        pairs = sorted(path for path in place.iterdir() if (path / "orig.o").is_file())
        report(release, [measure(pair, tree) for pair in pairs])
    return 0


def import_everything() -> None:
    for module in pkgutil.walk_packages(builder.__path__, "builder."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def measure(pair: Path, tree: KernelTree) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "bench.ko"
        runs = [once(pair, tree, output) for _ in range(REPEATS)]
        size = output.stat().st_size if output.is_file() else 0
    return Figure(pair.name, runs[0][0], min(seconds for _, seconds in runs), size)


def once(pair: Path, tree: KernelTree, output: Path) -> tuple[int, float]:
    """The exit status and the CPU seconds (user and system, children included) of one build."""
    from builder.cli import run

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        before = cpu_seconds()
        objects = [str(pair / "orig.o"), str(pair / "patched.o")]
        ended = run(["build", *objects, "--kernel", str(tree.image), "-o", str(output)])
        os.write(writer, f"{ended} {cpu_seconds() - before}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    status, _, seconds = text.partition(" ")
    return int(status or "2"), float(seconds or "nan")


def cpu_seconds() -> float:
    """User and system, of this process and of those that it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(release: str, figures: Sequence[Figure]) -> None:
    print(f"bespoke build for {release} (CPU time beyond start and imports, best of {REPEATS})")
    print(f"{'pair':40}{'outcome':>10}{'bytes':>10}{'ms':>8}")
    for figure in sorted(figures, key=lambda figure: figure.seconds):
        outcome = OUTCOMES.get(figure.status, str(figure.status))
        print(f"{figure.name:40}{outcome:>10}{figure.size:10,}{figure.seconds * 1000:8.0f}")
    for title, some in (("all", figures), ("built", [figure for figure in figures if figure.status == 0])):
        if some:
            median = statistics.median(figure.seconds for figure in some)
            print(f"median of {len(some)} pairs ({title}): {median * 1000:.0f} ms")


if __name__ == "__main__":
    sys.exit(main())

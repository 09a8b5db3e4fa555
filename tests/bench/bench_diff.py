"""How long `bespoke diff` takes for each shared pair, beside kpatch's create-diff-object; how it grows with sections.

The pairs are compared one after the other by one process, as those of a tree are: what is measured is all that the
command does, but for the interpreter's start and the imports. The medians of five processes.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.__main__ import collect_seldom
from builder.binary import ObjectFile, read_object
from builder.compare import compare
from tests.bench.peers import PROGRAM, DiffObject
from tests.bench.processes import REPEATS
from tests.conftest import ROOT, data_root

KINDS = ("conformance/x86_64", "corpus/pairs", "running-6.1.0-50/pairs")
RUNS = 3
GROWTH = (250, 500, 1000, 2500, 5000)
"""Numbers of functions of the synthetic objects; each has four sections."""

ALL = """
import json, os, sys, time
import builder.cli.diff_command
from builder.__main__ import collect_seldom
from builder.cli import run
collect_seldom()
sys.stdout = open(os.devnull, "w")
rows = []
for pair in json.loads(sys.argv[1]):
    began = time.process_time()
    run(["diff", f"{pair}/orig.o", f"{pair}/patched.o", "--json"])
    rows.append(time.process_time() - began)
print(json.dumps(rows), file=sys.__stdout__)
"""


def pairs(root: Path) -> dict[Path, str]:
    """The shared pairs, and which set each is of."""
    return {pair: kind.partition("/")[0] for kind in KINDS for pair in sorted((root / kind).glob("*")) if pair.is_dir()}


def diffs(found: Sequence[Path]) -> list[float]:
    """CPU seconds of the command for each pair."""
    words = [sys.executable, "-c", ALL, json.dumps([str(pair) for pair in found])]
    runs = [
        json.loads(subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout) for _ in range(REPEATS)
    ]
    return [statistics.median(times) for times in zip(*runs, strict=True)]


def best(work: Callable[[], object]) -> float:
    """The least of some runs in milliseconds of CPU time: what others do on the machine is left out."""
    times = []
    for _ in range(RUNS):
        gc.collect()
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1e3)
    return min(times)


def peak(work: Callable[[], object]) -> float:
    """MiB of Python objects alive at once."""
    gc.collect()
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / (1 << 20)


def synthetic(functions: int, place: Path) -> Path:
    """An object of `functions` functions, each with a datum that points back, all in sections of their own."""
    rows = []
    for k in range(functions):
        rows.append(
            f'.section .text.f{k},"ax",@progbits\n.globl f{k}\n.type f{k},@function\nf{k}:\n'
            f" movq d{k}(%rip), %rax\n call f{(k + 1) % functions}\n cmpl ${k}, %edi\n jne 1f\n incl %eax\n1: ret\n"
            f".size f{k}, .-f{k}\n"
            f'.section .data.d{k},"aw",@progbits\n.type d{k},@object\n.size d{k}, 8\nd{k}: .quad f{k}\n'
        )
    source, target = place / "many.s", place / f"many{functions}.o"
    source.write_text("".join(rows))
    subprocess.run(["as", "-o", target, source], check=True)
    return target


def growth() -> None:
    collect_seldom()
    print("\nHow a comparison grows (synthetic, every function in four sections; one function differs)")
    print(f"{'sections':>10}{'ms':>9}{'us/section':>12}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as name:
        for functions in GROWTH:
            data = synthetic(functions, Path(name)).read_bytes()

            def work(data: bytes = data) -> ObjectFile:
                old = read_object(data)
                compare(old, read_object(data.replace(b"\xff\xc0\xc3", b"\xff\xc8\xc3", 1)))
                return old

            sections = len(work().sections)
            spent = best(work)
            print(f"{sections:10}{spent:9.1f}{spent / sections * 1e3:12.1f}{peak(work):10.1f}")


def side_by_side(found: dict[Path, str], console: Console) -> None:
    """The pairs, ours and theirs."""
    table = Table(title="bespoke diff of the shared pairs, CPU ms", box=None, title_justify="left")
    for title in ("what", "pairs", "sum", "median", "p90", "max", "ratio of sums"):
        table.add_column(title, justify="left" if title == "what" else "right")

    def row(title: str, times: dict[Path, float], mine: float | None = None) -> None:
        spent = sorted(1e3 * seconds for seconds in times.values())
        p90 = statistics.quantiles(spent, n=10, method="inclusive")[8]
        figures = [f"{figure:.1f}" for figure in (sum(spent), statistics.median(spent), p90, spent[-1])]
        ratio = f"{mine / sum(times.values()):.2f}" if mine else ""
        table.add_row(title, str(len(times)), *figures, ratio)

    with console.status("comparing the shared pairs"):
        ours = dict(zip(found, diffs([*found]), strict=True))
    for kind in dict.fromkeys(found.values()):
        row(kind, {pair: seconds for pair, seconds in ours.items() if found[pair] == kind})
    row("all", ours)
    theirs: dict[str, dict[Path, float]] = {}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bespoke-bench-") as name, console.status("create-diff-object"):
        other = DiffObject.here(Path(name), whole=True)
        for pair in found if other else ():
            for title, spent in other.spends(pair) if other else ():
                theirs.setdefault(title, {})[pair] = spent.cpu
                failed += spent.status not in (0, 3)
    for title, times in theirs.items():
        row(title, times, sum(ours.values()))
    console.print(table)
    if other is None:
        console.print(f"create-diff-object: not measured ({PROGRAM} names none)", markup=False)
    elif failed:
        console.print(f"it gave up on {failed // len(theirs)} of the pairs")


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    found = pairs(data_root())
    if found:
        side_by_side(found, console)
    else:
        console.print(f"not measured: no pairs in {data_root()} (BESPOKE_DATA)", markup=False)
    growth()
    return 0


if __name__ == "__main__":
    sys.exit(main())

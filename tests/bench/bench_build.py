"""How long a build takes: the fixes for the running kernel, one process for each, kernel facts cached.

What is measured is CPU time, of the process and of the assembler that it calls,
beyond the interpreter's start and the imports.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.acquire.packages import fetch_kernel
from builder.errors import BespokeError
from tests.conftest import ROOT, data_root
from tests.running.pairs import ACCEPTED, RELEASE, places

REPEATS = 2
BAR = 150.0
"""Milliseconds that the median may take."""

ONE = """
import json, os, resource, sys
import builder.cli.build_command
from builder.cli import run
def used():
    rows = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return [row.ru_utime + row.ru_stime for row in rows]
began = used()
words = json.loads(sys.argv[1])
sys.stdout = open(os.devnull, "w")
code = run(words)
ended = used()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([code, 1e3 * (ended[0] - began[0]), 1e3 * (ended[1] - began[1]), peak / 1024]), file=sys.__stdout__)
"""


def measured(words: list[str]) -> tuple[int, float, float, float]:
    """Exit status, milliseconds of CPU in Python and in `as`, MiB at most; the best of some runs."""
    rows = []
    for _ in range(REPEATS):
        done = subprocess.run(
            [sys.executable, "-c", ONE, json.dumps(words)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        rows.append(tuple(json.loads(done.stdout)))
    best = min(rows, key=lambda row: row[1] + row[2])
    return int(best[0]), best[1], best[2], best[3]


def quantile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    found = places(data_root())
    try:
        image = fetch_kernel(RELEASE).image
    except BespokeError as error:
        console.print(f"not measured: {error}", markup=False)
        return 0
    if not found:
        console.print(f"not measured: no pairs in {data_root()} (BESPOKE_DATA)", markup=False)
        return 0
    table = Table(title=f"bespoke build, {RELEASE}", box=None, title_justify="left")
    for title in ("pair", "result", "CPU ms", "of it `as`", "peak MiB"):
        table.add_column(title, justify="left" if title in ("pair", "result") else "right")
    spent = []
    with tempfile.TemporaryDirectory(prefix="bespoke-bench-") as folder, console.status("building"):
        for name, place in found.items():
            allow = ["--allow", ":".join(ACCEPTED[name])] if name in ACCEPTED else []
            objects = [str(place / "orig.o"), str(place / "patched.o")]
            output = str(Path(folder) / "fix.ko")
            status, python, assembler, peak = measured(
                ["build", *objects, "--kernel", str(image), "-o", output, "-q", *allow]
            )
            if status == 0:
                spent.append(python + assembler)
            result = {0: "built", 1: "refused", 3: "unchanged"}.get(status, f"status {status}")
            table.add_row(name, result, f"{python + assembler:.0f}", f"{assembler:.0f}", f"{peak:.0f}")
    console.print(table)
    median = statistics.median(spent)
    console.print(
        f"{len(spent)} built: median {median:.0f} ms, p90 {quantile(spent, 0.9):.0f} ms, max {max(spent):.0f} ms "
        f"(the bar: median at most {BAR:.0f} ms: {'met' if median <= BAR else 'missed'})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

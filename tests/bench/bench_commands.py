"""What a command costs as a whole process, imports included: CPU seconds, the median of some runs.

Beside one pair's comparison stands that of kpatch's `create-diff-object`, where `BESPOKE_CREATE_DIFF_OBJECT` names it,
given the object's own symbol table; the ratio is that of the medians. A tree of many pairs of which few differ is made
of the shared pairs.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from builder.acquire.packages import fetch_kernel
from builder.errors import BespokeError
from tests.conftest import ROOT, data_root
from tests.running.pairs import RELEASE, places

PEER: Final = "BESPOKE_CREATE_DIFF_OBJECT"
REPEATS: Final = 5
PAIRS: Final = 4000
DIFFERENT: Final = 20
PAIR: Final = "crypto__af_alg"
BARS: Final = {"--help": 0.1, "diff": 0.15, "build": 0.35, "check": 0.5}
"""Seconds."""


def spent(words: Sequence[str | Path], repeats: int = REPEATS) -> float:
    """The median of the CPU seconds of a process and of those that it waits for."""
    rows = []
    # Bytecode is kept, as an installed package has it, whatever the environment says.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(rows[1:])


def tree(place: Path, pairs: Sequence[Path]) -> tuple[Path, Path]:
    """Two trees of `PAIRS` objects each, of which `DIFFERENT` differ."""
    sides = place / "old", place / "new"
    for number in range(PAIRS):
        pair = pairs[number % len(pairs)]
        for side in sides:
            differs = side.name == "new" and number % (PAIRS // DIFFERENT) == 0
            target = side / f"{number // 100}" / f"{number}.o"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(pair / ("patched.o" if differs else "orig.o"))
    return sides


def peer(pair: Path, place: Path) -> float | None:
    """The same of create-diff-object for one pair, None where it is not named."""
    program = os.environ.get(PEER)
    if not program:
        return None
    symbols, versions = place / "symbols", place / "Module.symvers"
    symbols.write_text(subprocess.run(["readelf", "-sW", pair / "orig.o"], capture_output=True, text=True).stdout)
    versions.write_text("")
    files = (pair / "orig.o", pair / "patched.o", "vmlinux", symbols, versions, "fix", place / "output.o")
    return spent([program, *files])


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    found = places(data_root())
    if PAIR not in found:
        console.print(f"not measured: no pair {PAIR} in {data_root()} (BESPOKE_DATA)", markup=False)
        return 0
    bespoke = (sys.executable, "-m", "builder")
    old, new = found[PAIR] / "orig.o", found[PAIR] / "patched.o"
    table = Table(title="CPU seconds of a whole process, median", box=None, title_justify="left")
    for title in ("command", "s", "aim"):
        table.add_column(title, justify="left" if title == "command" else "right")

    def row(title: str, seconds: float) -> None:
        aim = BARS.get(title)
        table.add_row(title, f"{seconds:.3f}", f"{aim:.2f}" if aim else "")

    with tempfile.TemporaryDirectory(prefix="bespoke-bench-") as name, console.status("running commands"):
        place = Path(name)
        row("--help", spent([*bespoke, "--help"]))
        row("diff", one := spent([*bespoke, "diff", old, new, "--json"]))
        row("diff, the same file", spent([*bespoke, "diff", old, old, "--json"]))
        try:
            kernel = fetch_kernel(RELEASE).image
        except BespokeError as error:
            console.print(f"no kernel: {error}", markup=False)
        else:
            module = place / "fix.ko"
            row("build", spent([*bespoke, "build", old, new, "--kernel", kernel, "-o", module, "--json"]))
            row("check", spent([*bespoke, "check", module, "--kernel", kernel, "--json"]))
        sides = tree(place, list(found.values()))
        row(f"diff of {PAIRS} pairs of which {DIFFERENT} differ", spent([*bespoke, "diff", *sides, "--json"], 2))
        other = peer(found[PAIR], place)
    console.print(table)
    if other is None:
        console.print(f"create-diff-object: not measured ({PEER} names none)", markup=False)
    else:
        console.print(f"create-diff-object: {other:.3f} s; diff takes {one / other:.1f} times that", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

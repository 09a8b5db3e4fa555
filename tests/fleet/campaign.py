"""Twenty fixes for at least four kernels: every cell as it should be, its module that of a single run.

    python -m tests.fleet.campaign OUT [--scheduler ADDRESS] [--compare] [KERNEL ...]

The first two kernels are the older and the newer of one series, whose sources the fixes are made of. With `--compare`
each module that is there is made once more, alone, and nothing else is done. A summary tells what each phase took, and
what a run takes over the sum of its cells.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from builder import patch
from builder.acquire.source import fetch_source
from builder.fleet.spec import fixes_of
from tests.fleet.fixes import HAD, write_fixes

KERNELS: Final = ("6.1.0-50-amd64", "6.1.0-56-amd64", "6.1.0-56-cloud-amd64", "6.1.0-56-rt-amd64")


def expected(fix: str, kernel: str, older: str) -> str:
    """What should become of a cell."""
    if fix in {name.replace("-", "_") for name in HAD} and kernel != older:
        return "has-it"
    if fix == "15_makefile":
        return "refused"
    # What the cloud flavour is configured without.
    if "-cloud-" in kernel and fix in ("08_zram_limit_unlock", "09_dma_static_local", "16_driver"):
        return "shipped or not-built"
    return "shipped"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.campaign", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("kernels", nargs="*", default=KERNELS)
    parser.add_argument("--scheduler", default="")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    fixes = options.out / "fixes"
    older, newer = options.kernels[:2]
    if not fixes.is_dir():
        write_fixes(fixes, fetch_source(older), fetch_source(newer), older.rpartition("-")[0])
    out = options.out / "out"
    if not options.compare:
        where = ["--scheduler", options.scheduler] if options.scheduler else []
        command = [sys.executable, "-m", "builder", "fleet", "--fixes", fixes, "--kernels", *options.kernels]
        started = time.monotonic()
        subprocess.run([*command, "-o", out, "--cumulative", "all_fixes", *where], check=False)
        print(f"took {time.monotonic() - started:.0f} s")
    index = json.loads((out / "index.json").read_text())
    return summary(index, older) | (alone(index, out, fixes) if options.compare else 0)


def summary(index: Mapping[str, Any], older: str) -> int:
    """Tell the verdicts that are not as they should be, and the time of each phase; 1 where there is one."""
    wrong = 0
    phases: Counter[str] = Counter()
    for cell in index["cells"]:
        phases.update(cell["phases"])
        wanted = expected(cell["fix"], cell["kernel"], older)
        if cell["verdict"] not in wanted.split(" or "):
            wrong = 1
            print(f"{cell['kernel']}/{cell['fix']}: {cell['verdict']}, not {wanted}: {cell['detail'][:200]}")
    print(index["counts"], {name: round(seconds, 1) for name, seconds in phases.items()})
    print(f"cells together {sum(phases.values()):.0f} s, the run {index['seconds']:.0f} s")
    return wrong


def alone(index: Mapping[str, Any], out: Path, fixes: Path) -> int:
    """Make each module once more, alone, and compare the bytes; 1 where one differs."""
    by_name = {fix.name: fix for fix in fixes_of(fixes)}
    work = out.parent / "alone"
    different = count = 0
    for cell in index["cells"]:
        if not cell["sha256"] or cell["fix"] not in by_name:
            continue
        files = []
        for number, text in enumerate(by_name[cell["fix"]].patches_for(cell["kernel"])):
            files.append(work / cell["kernel"] / cell["fix"] / str(number) / text.name)
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_bytes(text.content)
        made = patch(files, cell["kernel"], name=cell["fix"])
        count += 1
        if made.module is None or made.module.content != (out / cell["kernel"] / f"{cell['fix']}.ko").read_bytes():
            different += 1
            print(f"{cell['kernel']}/{cell['fix']}: the module of a single run is another one")
    print(f"{count} modules compared with those of single runs, {different} differ")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())

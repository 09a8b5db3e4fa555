"""Twenty fixes for at least four kernels: every cell as it should be, its module that of a single run.

    python -m tests.fleet.campaign OUT [--scheduler ADDRESS] [--compare [--sample N]] [KERNEL ...]

The first two kernels are the older and the newer of one series, whose sources the fixes are made of; one of Linux 6.12
has variants of its own. With `--compare` each module that is there (or N of them, evenly chosen, and those of all
fixes) is made once more, alone, and nothing else is done. A summary tells what each phase took, and what a run takes
over the sum of its cells.
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
from tests.fleet.fixes import HAD, OTHER, write_fixes

KERNELS: Final = ("6.1.0-50-amd64", "6.1.0-56-amd64", "6.1.0-56-cloud-amd64", "6.12.117+deb13-amd64")

CUMULATIVE: Final = "all_fixes"


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
    parser.add_argument("--sample", type=int, default=10**6, metavar="N")
    options = parser.parse_intermixed_args()
    fixes = options.out / "fixes"
    older, newer = options.kernels[:2]
    if not fixes.is_dir():
        other = next((fetch_source(kernel) for kernel in options.kernels if kernel.startswith(f"{OTHER}.")), None)
        write_fixes(fixes, fetch_source(older), fetch_source(newer), older.rpartition("-")[0], other)
    out = options.out / "out"
    if not options.compare:
        where = ["--scheduler", options.scheduler] if options.scheduler else []
        command = [sys.executable, "-m", "builder", "fleet", "--fixes", fixes, "--kernels", *options.kernels]
        started = time.monotonic()
        subprocess.run([*command, "-o", out, "--cumulative", CUMULATIVE, *where], check=False)
        print(f"took {time.monotonic() - started:.0f} s")
    index = json.loads((out / "index.json").read_text())
    wrong = summary(index, older)
    tell_time(index)
    return wrong | alone(index, out, fixes, options.sample) if options.compare else wrong


def summary(index: Mapping[str, Any], older: str) -> int:
    """Tell the verdicts, and those that are not as they should be; 1 where there is one."""
    wrong = 0
    for cell in index["cells"]:
        wanted = expected(cell["fix"], cell["kernel"], older)
        if cell["verdict"] not in wanted.split(" or "):
            wrong = 1
            print(f"{cell['kernel']}/{cell['fix']}: {cell['verdict']}, not {wanted}: {cell['detail'][:200]}")
    print(index["counts"])
    return wrong


def tell_time(index: Mapping[str, Any]) -> None:
    """Tell what each phase took, and what the run takes over the sum of its cells; of a run that did all of them."""
    phases: Counter[str] = Counter()
    for cell in index["cells"]:
        phases.update(cell["phases"])
    busy, workers = sum(phases.values()), len({cell["worker"] for cell in index["cells"] if cell["worker"]})
    print({name: round(seconds, 1) for name, seconds in phases.items()})
    print(f"cells together {busy:.0f} s, the run {index['seconds']:.0f} s on {workers} workers: "
          f"{100 * (index['seconds'] * workers / busy - 1):.1f} % over the cells")  # fmt: skip


def alone(index: Mapping[str, Any], out: Path, fixes: Path, most: int) -> int:
    """Make modules once more, alone, and compare the bytes; 1 where one differs or none is there."""
    by_name = {fix.name: fix for fix in fixes_of(fixes)}
    together = [cell for cell in index["cells"] if cell["sha256"] and cell["fix"] == CUMULATIVE]
    cells = [cell for cell in index["cells"] if cell["sha256"] and cell["fix"] != CUMULATIVE]
    different = 0
    chosen = together + cells[:: max(1, len(cells) // most)]
    for cell in chosen:
        parts = [cell["fix"]] if cell["fix"] != CUMULATIVE else shipped(index, cell["kernel"])
        files = []
        for number, text in enumerate(t for name in parts for t in by_name[name].patches_for(cell["kernel"])):
            files.append(out.parent / "alone" / cell["kernel"] / cell["fix"] / str(number) / text.name)
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            files[-1].write_bytes(text.content)
        made = patch(files, cell["kernel"], name=cell["fix"])
        if made.module is None or made.module.content != (out / cell["kernel"] / f"{cell['fix']}.ko").read_bytes():
            different += 1
            print(f"{cell['kernel']}/{cell['fix']}: the module of a single run is another one")
    print(f"{len(chosen)} modules compared with those of single runs, {different} differ")
    return int(different > 0 or not chosen)


def shipped(index: Mapping[str, Any], kernel: str) -> list[str]:
    """The fixes that a kernel's module of all fixes holds."""
    rows = [c["fix"] for c in index["cells"] if (c["kernel"], c["verdict"]) == (kernel, "shipped")]
    return [name for name in rows if name != CUMULATIVE]


if __name__ == "__main__":
    sys.exit(main())

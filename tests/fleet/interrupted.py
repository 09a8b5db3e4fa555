"""A fleet of the cells of `doings` in a process of its own, for tests that end it.

python -m tests.fleet.interrupted OUT FOLDER FIX... [--scheduler ADDRESS]
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from builder.fleet.engine import run_fleet
from builder.fleet.kernels import FleetKernel
from builder.fleet.plan import make_plan
from builder.fleet.spec import Fleet, FleetFix, PatchText, Variant
from builder.fleet.store import Store
from builder.fleet.workers import Crew, crew
from tests.fleet.doings import DOING


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as `bespoke fleet` has it
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("fixes", nargs="+")
    parser.add_argument("--scheduler", default="")
    options = parser.parse_args()
    text = PatchText("x.patch", f"{options.folder}\n".encode())
    fixes = tuple(FleetFix(name, (Variant("", (text,)),)) for name in options.fixes)
    store, how = Store(options.out), Crew(options.scheduler, workers=2)
    plan = make_plan(Fleet(fixes, ("-",)), store, (FleetKernel("6.1.0-1-a", "6.1.0-1-a", "1"),))
    with crew(how) as client:
        for result in run_fleet(plan, store, client, how, doing=DOING):
            print(result.fix, result.verdict, flush=True)


if __name__ == "__main__":
    main()

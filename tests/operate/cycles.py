"""Run inside a guest, by the host's Python: load and unload again and again.

python -m tests.operate.cycles MODULE.ko COUNT PROBES
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from builder.image.machine import ThisMachine
from builder.operate.live import Live


def main(module: Path, count: int, probes: int) -> None:
    content, host = module.read_bytes(), ThisMachine()
    for cycle in range(count):
        started = time.monotonic()
        outcome = Live(host).load(content, str(module))
        assert len(outcome.moved) == probes, f"cycle {cycle}: {len(outcome.moved)} probes, {outcome.reports}"
        assert outcome.reports == (), outcome.reports
        loaded = time.monotonic()
        Live(host).unload("p1")
        print(f"cycle {cycle}: {loaded - started:.1f} s, {time.monotonic() - loaded:.1f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""Run inside a guest, by the host's Python: let one module of marks take the place of the other, again and again.

python -m tests.operate.updating FROM COUNT PROBES FIRST.ko SECOND.ko

The first of them is in force when its turn FROM is 0, otherwise the one before. Prints what the marks of each module
that went have seen, as JSON, and fails where an event does not follow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from builder.image.machine import ThisMachine
from builder.operate.live import Live
from builder.operate.watching import marked_modules


def main(first: int, count: int, probes: int, modules: tuple[Path, Path]) -> None:
    host = ThisMachine()
    for turn in range(first, first + count):
        new, old = modules[turn % 2], modules[(turn + 1) % 2].stem
        outcome = Live(host).load(new.read_bytes(), str(new))
        assert len(outcome.moved) == probes, f"update {turn}: {len(outcome.moved)} probes, {outcome.reports}"
        assert outcome.reports == (), f"update {turn}: {outcome.reports}"
        if turn:
            # All tasks are in the new version: what the old one has seen is all that it ever will.
            rows = {row.mark: (row.count, row.sum, row.missed) for row in marked_modules()[old]}
            Live(host).unload(old)
            print(json.dumps({"turn": turn, "module": old, "seconds": outcome.seconds, "marks": rows}), flush=True)


if __name__ == "__main__":
    first, count, probes = map(int, sys.argv[1:4])
    main(first, count, probes, (Path(sys.argv[4]), Path(sys.argv[5])))

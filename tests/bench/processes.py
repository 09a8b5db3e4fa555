"""What a process takes, with all that it starts: CPU and real seconds, and memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.conftest import ROOT

REPEATS: Final = 5

# A program of its own and a small one: what a process is charged with at its start is what its parent has in memory.
# Whoever is left behind by the one that it starts becomes its child (PR_SET_CHILD_SUBREAPER of prctl(2)).
_MEASURE: Final = """
import ctypes, json, os, sys, time
ctypes.CDLL(None).prctl(36, 1)
nothing = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
nothing += [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
began = time.monotonic()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=nothing)
_, status, used = os.wait4(child, 0)
real, cpu, peak = time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss
while True:
    try:
        _, _, used = os.wait4(-1, 0)
    except ChildProcessError:
        break
    cpu, peak = cpu + used.ru_utime + used.ru_stime, max(peak, used.ru_maxrss)
print(json.dumps([cpu, real, peak / 1024, os.waitstatus_to_exitcode(status)]))
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds and real ones, MiB of the largest process, and the exit status of the first."""

    cpu: float
    real: float
    peak: float
    status: int


def spend(words: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Spent:
    """Run a command once, in the project's directory; what it says is dropped."""
    # Bytecode is kept, as an installed package has it, whatever the environment says.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, env=kept | dict(environment or {}), stdout=subprocess.PIPE, text=True, check=True
    )
    return Spent(*json.loads(done.stdout))


def median(rows: Sequence[Spent]) -> Spent:
    """The medians of some runs, each figure by itself; the worst exit status."""
    cpu, real, peak = (
        statistics.median(figures) for figures in zip(*((row.cpu, row.real, row.peak) for row in rows), strict=True)
    )
    return Spent(cpu, real, peak, max(row.status for row in rows))


def spent(
    words: Sequence[str | Path],
    repeats: int = REPEATS,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], object] = lambda: None,
) -> Spent:
    """The medians of some runs, before each of which `before` is called; the first run is not counted."""
    rows = []
    for _ in range(repeats + 1):
        before()
        rows.append(spend(words, environment))
    return median(rows[1:])

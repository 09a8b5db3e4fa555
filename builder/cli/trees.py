"""Two trees of objects compared pair by pair, in parallel where wanted."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from rich.progress import track

from builder.cli.common import Output
from builder.errors import BespokeError
from builder.pipeline import diff, find_pairs

# The exit status of a tree is the worst of its pairs.
_WORST = (2, 1, 0, 3)
_STATUS = {"error": 2, "refused": 1, "changed": 0, "unchanged": 3}

Job = tuple[str, Path, Path, tuple[tuple[str, str], ...]]


def compare_trees(
    old: Path, new: Path, allowed: tuple[tuple[str, str], ...], jobs: int, output: Output
) -> tuple[dict[str, Any], int]:
    """The JSON document of two trees and the exit status; an unreadable pair stops no other."""
    pairs, unpaired = find_pairs(old, new)
    work: list[Job] = [(path, first, second, allowed) for path, first, second in pairs]
    rows: Iterable[dict[str, Any]] = _all(work, jobs)
    if output.err.is_terminal and not output.quiet:
        rows = track(rows, total=len(work), description="comparing", console=output.err, transient=True)
    done = list(rows)
    statuses = {_STATUS[row["verdict"]] for row in done} or {3}
    return {"pairs": done, "unpaired": unpaired}, next(s for s in _WORST if s in statuses)


def _all(work: list[Job], jobs: int) -> Iterator[dict[str, Any]]:
    if jobs == 1 or len(work) < 2:
        yield from map(compare_one, work)
        return
    context = multiprocessing.get_context("forkserver")
    done = 0
    try:
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            for row in pool.map(compare_one, work, chunksize=1):
                done += 1
                yield row
    except BrokenProcessPool:  # a worker was killed: go on without workers, nothing is lost
        yield from map(compare_one, work[done:])


def compare_one(job: Job) -> dict[str, Any]:
    """One pair as its JSON document; what cannot be read has the verdict `error`."""
    path, old, new, allowed = job
    try:
        return {"path": path, **diff(old, new, allowed=allowed).as_json()}
    except (BespokeError, OSError) as problem:
        message = str(problem)
    except Exception as problem:
        message = f"a defect in bespoke: {type(problem).__name__}: {problem}"
    empty: list[str] = []
    return {
        "path": path,
        "verdict": "error",
        "old": str(old),
        "new": str(new),
        "message": message,
        "functions": {"changed": empty, "new": empty, "removed": empty, "line_only": empty},
        "data": {"new": empty, "changed": empty},
        "refusals": [],
        "warnings": [],
    }

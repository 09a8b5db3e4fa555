"""Two trees of objects compared pair by pair, in parallel where wanted."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.acquire.pairs import find_pairs
from builder.acquire.shifts import Shift
from builder.cli.common import Output
from builder.compose.outcome import EXIT_STATUS
from builder.errors import Allowed, BespokeError
from builder.pipeline import diff, diff_document

if TYPE_CHECKING:  # a page is slow to import
    from builder.compose.outcome import Diff
    from builder.report.html import PagePair

# The exit status of a tree is the worst of its pairs.
_WORST = (2, 1, 0, 3)

Job = tuple[str, Path, Path, Sequence[Shift], Allowed, "Describe | None"]
Describe = Callable[["Diff", str], "PagePair"]
"""What a page says of a pair, by its diff and its path; a function that another process can find."""
PairRow = tuple[dict[str, Any], "PagePair | None"]


def compare_trees(
    old: Path,
    new: Path,
    shifts: Sequence[Shift],
    allowed: Allowed,
    jobs: int,
    output: Output,
    describe: Describe | None = None,
) -> tuple[dict[str, Any], list[PagePair], int]:
    """The JSON document of two trees, what a page says of them and the exit status.

    An unreadable pair stops no other. Without `describe` there is nothing for a page.
    """
    pairs, unpaired = find_pairs(old, new)
    work: list[Job] = [(path, first, second, shifts, allowed, describe) for path, first, second in pairs]
    done: list[PairRow] = []
    with output.progress() as shown:
        for row in _all(work, jobs):
            done.append(row)
            shown.count(len(done), len(work), "comparing")
    documents = [document for document, _ in done]
    statuses = {EXIT_STATUS[document["verdict"]] for document in documents} or {3}
    described = [pair for _, pair in done if pair is not None]
    return {"pairs": documents, "unpaired": unpaired}, described, next(s for s in _WORST if s in statuses)


def _all(work: list[Job], jobs: int) -> Iterator[PairRow]:
    if jobs == 1 or len(work) < 2:
        yield from map(compare_one, work)
        return
    context = multiprocessing.get_context("forkserver")
    done = 0
    resource_tracker.ensure_running()  # would unblock the signal
    try:
        collecting = gc.get_threshold()  # workers collect garbage as seldom as this process
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=gc.set_threshold, initargs=collecting) as pool:
            with _uninterrupted():
                rows = pool.map(compare_one, work, chunksize=_chunk(len(work), jobs))
            for row in rows:
                done += 1
                yield row
    except BrokenProcessPool:  # a worker was killed: go on without workers, nothing is lost
        yield from map(compare_one, work[done:])


def _chunk(pairs: int, jobs: int) -> int:
    """Pairs given to a worker at once: few enough that none works alone in the end, and of many not each by itself."""
    return min(max(1, pairs // (16 * jobs)), 32)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """An interrupt at the terminal waits until the end of this; processes begun here never see one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def compare_one(job: Job) -> PairRow:
    """One pair as its JSON document, described if wanted; what cannot be read has the verdict `error`."""
    path, old, new, shifts, allowed, describe = job
    try:
        if describe is None:
            return {"path": path, **diff_document(old, new, shifts=shifts, allowed=allowed)}, None
        found = diff(old, new, shifts=shifts, allowed=allowed)
        row = {"path": path, **found.as_json()}, describe(found, path)
        found.forget()
        return row
    except (BespokeError, OSError) as problem:
        message = str(problem)
    except Exception as problem:
        message = f"a defect in bespoke: {type(problem).__name__}: {problem}"
    empty: list[str] = []
    document = {
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
    if describe is None:
        return document, None
    from builder.report.html import unread

    return document, unread(document)

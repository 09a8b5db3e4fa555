"""What is shown while a command works: a bar or a step on a terminal, and what the log says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, TaskID

    from builder.report.spelled import Screen


class Shown:
    """One line of progress, replaced by what comes after it; without a bar it shows nothing at all."""

    def __init__(self, bar: Progress | None = None, task: TaskID | None = None) -> None:
        self._bar, self._task = bar, task

    def count(self, done: int, total: int, what: str) -> None:
        """`done` of `total` are done, the last of them was `what`."""
        self._update(what, completed=done, total=total)

    def step(self, what: str) -> None:
        """`what` is being done, and nobody knows for how long."""
        self._update(what, completed=0, total=None)

    def _update(self, what: str, *, completed: int, total: int | None) -> None:
        if self._bar is not None and self._task is not None:
            from builder.report.spelled import spelled  # here, as rich

            self._bar.update(self._task, completed=completed, total=total, description=spelled(what))

    def line(self, text: RenderableType) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(text)


@contextmanager
def shown(console: Screen | None) -> Iterator[Shown]:
    """Progress on the terminal `console`, gone at the end; nothing without one."""
    if console is None:
        yield Shown()
        return
    # Here, for it is slow to import and most commands end before it would be seen.
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    what = TextColumn("{task.description}", markup=False)
    with Progress(what, BarColumn(), TimeElapsedColumn(), console=console, transient=True) as bar:
        yield Shown(bar, bar.add_task("", total=None))


@contextmanager
def logged(console: Callable[[], Screen], *, steps: bool, quiet: bool) -> Iterator[None]:
    """What takes time says so on `console`: with `steps` all of it at once, else each step that has taken longer than
    PATIENCE; quiet: nothing."""
    logger = logging.getLogger("bespoke")
    handler: logging.Handler = logging.NullHandler()
    level = logger.level
    if not quiet and steps:
        handler = _ToConsole(console)
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%X"))
        logger.setLevel(logging.INFO)
    elif not quiet:
        handler = _LateToConsole(console)
        handler.setFormatter(logging.Formatter("bespoke: %(message)s"))
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)


PATIENCE = 3.0
"""Seconds for which nobody who reads a CI's log has to be told what is being done."""


class _ToConsole(logging.Handler):
    """Prints above the progress that the same console shows, which is made when there is something to print."""

    def __init__(self, console: Callable[[], Screen]) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console().print(self.format(record))


class _LateToConsole(_ToConsole):
    """Tells of a step when it has gone on for PATIENCE, that is without another one; of a warning at once."""

    def __init__(self, console: Callable[[], Screen]) -> None:
        super().__init__(console)
        self._waiting: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._forget()
        if record.levelno > logging.INFO:
            super().emit(record)
            return
        self._waiting = threading.Timer(PATIENCE, super().emit, [record])
        self._waiting.daemon = True
        self._waiting.start()

    def _forget(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    def close(self) -> None:
        self._forget()
        super().close()

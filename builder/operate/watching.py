"""Watch the marks of loaded modules: an instance of tracefs of our own, which is there as long as somebody looks.

Nobody else's tracing is touched: the events are switched on in that instance alone, and removing it switches them off.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builder.errors import UsageError
from builder.image.marks import (
    SUFFIX,
    TRACEFS,
    MarkRecord,
    MarkTotals,
    lost_records,
    parse_record,
    parse_totals,
)

_INSTANCE: Final = "bespoke-"
"""What the names of our instances begin with; the process that looks follows."""


def marked_modules(tracefs: Path = Path(TRACEFS)) -> dict[str, tuple[MarkTotals, ...]]:
    """The loaded modules that have marks, and what these have seen."""
    found: dict[str, tuple[MarkTotals, ...]] = {}
    for path in sorted(tracefs.glob(f"*{SUFFIX}")):
        with suppress(FileNotFoundError):  # unloaded meanwhile
            found[path.name.removesuffix(SUFFIX)] = tuple(parse_totals(path.read_text()))
    return found


@dataclass(slots=True)
class Watch:
    """An instance in which marks are on. `lost` counts the records that came too fast to be read."""

    instance: Path
    lost: int = 0
    _rest: str = field(default="", repr=False)

    def records(self, *, until: float | None = None) -> Iterator[MarkRecord | None]:
        """Each record as it comes, None where for a moment none does; to the time `until` (monotonic seconds)."""
        with open(os.open(self.instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
            while until is None or time.monotonic() < until:
                ready, _, _ = select.select([pipe], [], [], 0.1)
                data = pipe.read(1 << 16) if ready else None
                if not data:
                    yield None
                    if ready:
                        time.sleep(0.05)
                    continue
                *lines, self._rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
                for line in lines:
                    self.lost += lost_records(line)
                    if (record := parse_record(line)) is not None:
                        yield record


@contextmanager
def watching(modules: Sequence[str], condition: str = "", tracefs: Path = Path(TRACEFS)) -> Iterator[Watch]:
    """While the marks of `modules` are on; `condition` filters each of their events, as the kernel's filters do.

    Raises UsageError for a module without marks, and a filter that the kernel does not take. Whatever ends it, the
    instance is taken away.
    """
    known = marked_modules(tracefs)
    for module in modules:
        if module not in known:
            there = f"there are {', '.join(known)}" if known else "no module here has any"
            raise UsageError(f"{module} has no marks: {there}")
    _remove_abandoned(tracefs / "instances")
    instance = tracefs / "instances" / f"{_INSTANCE}{os.getpid()}"
    try:
        instance.mkdir()
        (instance / "trace_options").write_text("raw")
        for module in modules:
            events = instance / "events" / module
            if condition:
                _filter(events, condition)
            (events / "enable").write_text("1")
        yield Watch(instance)
    finally:
        for module in modules:
            with suppress(OSError):  # unloaded meanwhile
                (instance / "events" / module / "enable").write_text("0")
        _remove(instance)


def _remove_abandoned(instances: Path) -> None:
    """Take away what a killed process has left: its marks would stay on for nobody."""
    for instance in instances.glob(f"{_INSTANCE}*"):
        if not Path("/proc", instance.name.removeprefix(_INSTANCE)).exists():
            with suppress(OSError):  # in the hands of somebody else meanwhile
                instance.rmdir()


def _filter(events: Path, condition: str) -> None:
    for event in sorted(path for path in events.iterdir() if path.is_dir()):
        try:
            (event / "filter").write_text(condition)
        except OSError as problem:
            raise UsageError(f"--filter {condition!r} is no filter of {event.name}: {problem.strerror}") from None


def _remove(instance: Path) -> None:
    for _ in range(50):
        try:
            instance.rmdir()
            return
        except FileNotFoundError:  # interrupted before it was made
            return
        except OSError:  # who reads it now is done soon
            time.sleep(0.02)
    instance.rmdir()

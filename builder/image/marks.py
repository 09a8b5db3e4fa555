"""The records of marks as a kernel gives them: by an instance of tracefs with the option `raw`, a line for each.

What a line is made of is in templates/marks.c.j2; the head of it is print_raw_fmt of kernel/trace/trace.c (v6.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

TRACEFS: Final = "/sys/kernel/tracing"
SUFFIX: Final = ".marks"
"""`NAME.marks` in tracefs tells what the marks of the module NAME have seen."""

_LINE = re.compile(r"(?P<pid>\d+) (?P<cpu>\d+) (?P<time>\d+) (?P<rest>[A-Za-z_]\w*\tfrom=\w+:\d+\tcomm=.*)")
_LOST = re.compile(r"CPU:(\d+) \[LOST (\d+) EVENTS\]")
_NUMBER = re.compile(r"-?\d+|0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class MarkRecord:
    """One hit of a mark of `module`, whose marks are the `generation`-th on one another.

    `time` is in nanoseconds of the trace clock, `fields` are in the order of the mark.

    Numbers are numbers; a text, and the name of an enumerator, is a string.
    """

    mark: str
    module: str
    generation: int
    time: int
    cpu: int
    pid: int
    comm: str
    fields: Mapping[str, int | str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MarkTotals:
    """What one mark has seen on all CPUs: `hits` while it was on; `missed` are those that no record was made of.

    `slots` of a histogram: n -> how many values v had 2**(n-1) <= v < 2**n, and 0 -> how many had v <= 0. Of a time,
    `hits` have begun and `count` have ended; the values are nanoseconds.
    """

    mark: str
    place: str
    kind: str
    generation: int
    on: bool
    hits: int
    count: int
    sum: int
    missed: int
    slots: Mapping[int, int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_record(line: str) -> MarkRecord | None:
    """The record of a line, None for a line that is none."""
    found = _LINE.fullmatch(line.rstrip("\n"))
    if found is None:
        return None
    mark, origin, *rest = found["rest"].split("\t")
    module, _, generation = origin.removeprefix("from=").partition(":")
    fields = dict(part.partition("=")[::2] for part in rest)
    values = {name: int(text, 0) if _NUMBER.fullmatch(text) else _plain(text) for name, text in fields.items()}
    comm = str(values.pop("comm"))
    return MarkRecord(
        mark, module, int(generation), int(found["time"]), int(found["cpu"]), int(found["pid"]), comm, values
    )


def lost_records(line: str) -> int:
    """How many records a line says that were overwritten before they were read."""
    found = _LOST.search(line)
    return int(found[2]) if found else 0


def _plain(text: str) -> str:
    """A text stands behind one quotation mark, with escapes for what would end it."""
    return re.sub(r"(?:\\x[0-9a-f]{2})+", _octets, text.removeprefix("'"))


def _octets(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("\\x", "")).decode("utf-8", "replace")


def parse_totals(text: str) -> Iterator[MarkTotals]:
    """A row for each line of a module's `.marks` file."""
    for line in text.splitlines():
        mark, place, *rest = line.split("\t")
        said = dict(part.split("=", 1) for part in rest if "=" in part)
        slots = {int(n): int(count) for n, count in (part.split(":") for part in rest if "=" not in part)}
        hits, count, total, missed = (int(said[name]) for name in ("hits", "count", "sum", "missed"))
        generation, on = int(said["generation"]), said["on"] == "1"
        yield MarkTotals(mark, place, said["kind"], generation, on, hits, count, total, missed, slots)

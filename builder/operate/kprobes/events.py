"""What tracefs and debugfs say of the kprobes that are planted.

Sources: trace_kprobe_show in `kernel/trace/trace_kprobe.c` and report_probe in
`kernel/kprobes.c` (Linux 6.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from builder.binary import Address
from builder.errors import InputError

_EVENT = re.compile(r"(?P<kind>[pr])(?P<active>\d*):(?P<group>[^/\s]+)/(?P<name>\S+) (?P<place>\S+)(?P<rest>.*)")
_SYMBOL = re.compile(r"(?:(?P<module>[^:+]+):)?(?P<symbol>[^:+]+)(?:\+(?P<offset>0x[0-9a-fA-F]+|\d+))?")
_FLAGS = re.compile(r"\[(GONE|DISABLED|OPTIMIZED|FTRACE)\]")

NAME_MOST: Final = 63
"""Characters that the name of an event or a group may have (MAX_EVENT_NAME_LEN, kernel/trace/trace.h, v6.1)."""
COMPARED: Final = 63
"""Characters of a place that a removal is compared with (trace_kprobe_match_command_head, v6.1): a longer
place is removed by its first so many."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a probe is planted: `[MODULE:]SYMBOL+OFFSET`, or an address (as its text) where `symbol` is None.

    The text of an address is of little use: kprobe_events shows it hashed (`%p`).
    """

    module: str | None
    symbol: str | None
    offset: int = 0
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Spot:
        """As kprobe_events spells it. InputError for what is none."""
        if text.startswith("0x") or text.isdigit():
            return cls(None, None, 0, text)
        found = _SYMBOL.fullmatch(text)
        if found is None:
            raise InputError(f"not a place for a probe: {text!r}")
        return cls(found["module"], found["symbol"], int(found["offset"] or "0", 0))

    @property
    def is_telling(self) -> bool:
        """Whether it is an address that is told from others: early after the boot all are `(____ptrval____)`."""
        return self.symbol is None and self.address.isalnum()

    def __str__(self) -> str:
        if self.symbol is None:
            return self.address
        prefix = f"{self.module}:" if self.module else ""
        return f"{prefix}{self.symbol}" + (f"+{self.offset}" if self.offset else "")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of kprobe_events: one place of the event GROUP/NAME, which may have several."""

    is_return: bool
    group: str
    name: str
    spot: Spot
    arguments: tuple[str, ...] = ()
    maxactive: str = ""

    @property
    def key(self) -> str:
        return f"{self.group}/{self.name}"

    def moved(self, spot: Spot) -> Event:
        """The same event at another place."""
        return Event(self.is_return, self.group, self.name, spot, self.arguments, self.maxactive)

    def __str__(self) -> str:
        """The line that plants it (appends to the event where that is there already)."""
        kind = "r" if self.is_return else "p"
        return " ".join([f"{kind}{self.maxactive}:{self.key}", str(self.spot), *self.arguments])

    @property
    def removals(self) -> tuple[str, ...]:
        """Lines of which the first that the kernel takes removes this place: spelled as kprobe_events shows it, or cut.

        A cut one (see `COMPARED`) takes all places of the event that begin like that. As a module's name
        has at most 55 characters, they are in the same module.
        """
        shown = str(self.spot)
        spelled = dict.fromkeys((shown, shown[:COMPARED]))
        return tuple(" ".join([f"-:{self.key}", place, *self.arguments]) for place in spelled)


@dataclass(frozen=True, slots=True)
class Planted:
    """One line of kprobes/list: `symbol` and `offset` are those of the code, whoever planted it."""

    address: Address
    is_return: bool
    symbol: str
    offset: int
    module: str
    flags: frozenset[str]


def parse_events(text: str) -> tuple[Event, ...]:
    """kprobe_events; InputError names a line that is not understood."""
    rows = []
    for line in filter(str.strip, text.splitlines()):
        found = _EVENT.fullmatch(line.strip())
        if found is None:
            raise InputError(f"kprobe_events has a line that is not understood: {line!r}")
        rows.append(
            Event(
                found["kind"] == "r",
                found["group"],
                found["name"],
                Spot.parse(found["place"]),
                tuple(found["rest"].split()),
                found["active"],
            )
        )
    return tuple(rows)


def parse_list(text: str) -> tuple[Planted, ...]:
    """kprobes/list; InputError names a line that is not understood."""
    rows = []
    for line in filter(str.strip, text.splitlines()):
        words = _FLAGS.sub("", line).split()
        try:
            symbol, _, offset = words[2].partition("+")
            found = Planted(
                Address(words[0], 16),
                words[1] == "r",
                symbol,
                int(offset.partition("/")[0] or "0", 16),
                words[3].strip("[]") if len(words) > 3 else "",
                frozenset(_FLAGS.findall(line)),
            )
        except (IndexError, ValueError):
            raise InputError(f"kprobes/list has a line that is not understood: {line!r}") from None
        rows.append(found)
    return tuple(rows)


def by_key(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Events with all their places."""
    out: dict[str, list[Event]] = {}
    for event in events:
        out.setdefault(event.key, []).append(event)
    return out

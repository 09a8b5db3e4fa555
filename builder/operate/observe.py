"""What a kernel shows of its probes and of the functions that our livepatches carry."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from builder.binary import Address
from builder.errors import ToolError
from builder.image.machine import KPROBE_EVENTS, KPROBES_LIST, TRACING, Host
from builder.image.transition import LIVEPATCHES
from builder.operate.kprobes import (
    Addition,
    Event,
    ProbeFacts,
    ProbePlan,
    ProbeSymbols,
    Spot,
    parse_events,
    parse_list,
    plan,
)
from builder.operate.kprobes.plan import LEAST, Coordinate
from builder.operate.trail import Trail, versions

_LIMITED = re.compile(r"^(\S+)(?: \[(\S+)\])? \(\d+\).* I\b")


@dataclass(frozen=True)
class Observation:
    """Facts for the planner; `events` are all of kprobe_events."""

    facts: ProbeFacts

    @property
    def events(self) -> Sequence[Event]:
        return self.facts.events

    def plan(self) -> ProbePlan:
        return plan(self.facts)

    def orphans(self, module: str) -> tuple[Addition, ...]:
        """A place outside `module` for each event that stands only in it, where the maps know one.

        The original is taken by its address: its name is ambiguous as long as
        the module has one that is equal (number_of_same_symbols, kernel/trace/trace_kprobe.c).
        """
        places: dict[str, list[Event]] = {}
        for event in self.events:
            places.setdefault(event.key, []).append(event)
        out: dict[str, Addition] = {}
        for rows in places.values():
            if any(row.spot.module != module for row in rows):
                continue
            starts = [(row, start) for row in rows if (start := self.facts.coordinate(row.spot)) is not None]
            held = {start for _, start in starts}
            for row, start in starts:
                known = self.facts.everywhere(start, held)
                found = next((place for place in known if not place.module), None)
                spot = self._original(found) if found is not None and known[found][0] >= LEAST else None
                if found is not None and spot is not None:
                    addition = Addition(row.moved(spot), str(row.spot), found.owner, known[found][0])
                    out.setdefault(str(addition.event), addition)  # copies stand for one
        return tuple(out.values())

    def _original(self, place: Coordinate) -> Spot | None:
        if place.owner != "vmlinux":
            return Spot(place.owner, place.function, place.offset)
        rows = self.facts.symbols.addresses.get(("vmlinux", place.function), ())
        at = max(place.sympos - 1, 0)
        return Spot(None, None, 0, f"{rows[at] + place.offset:#x}") if at < len(rows) else None


def observe(host: Host, trail: Trail) -> Observation:
    """Read everything that the planner needs. ToolError where tracefs is not mounted."""
    events = planted_events(host)
    planted = parse_list(_need(host, KPROBES_LIST, "mount -t debugfs none /sys/kernel/debug"))
    ours = versions(trail.records)
    names = {event.spot.symbol for event in events if event.spot.symbol}
    for version in ours:
        for function in version.functions:
            names |= {function.old, function.name}
    limited = frozenset[Address]()
    symbols = ProbeSymbols({})
    if events or planted:
        symbols = ProbeSymbols.parse(host.read("/proc/kallsyms"), names)
        limited = _limited(host, symbols)
    return Observation(ProbeFacts(events, planted, symbols, ours, limited, trail.addresses))


def planted_events(host: Host) -> tuple[Event, ...]:
    """All of kprobe_events. ToolError where tracefs is not mounted."""
    return parse_events(_need(host, KPROBE_EVENTS, f"mount -t tracefs none {TRACING}"))


def why_refused(error: OSError) -> str:
    """Why the kernel will not plant a probe, in the words of the place."""
    if error.errno == errno.EILSEQ:
        return "the offset is inside an instruction, not at its begin"
    return error.strerror or str(error)


def learn_addresses(host: Host, trail: Trail, planted: Iterable[Event]) -> Trail:
    """The trail, which knows by then what is shown for those of the events just `planted` that are given by address.

    An event has one such place at most: the kernel takes two for the same (trace_kprobe_has_same_kprobe, v6.1).
    """
    wanted = {event.key: event.spot.address for event in planted if event.spot.symbol is None}
    if not wanted:
        return trail
    shown = {event.key: event.spot.address for event in planted_events(host) if event.spot.is_telling}
    found = {shown[key]: Address(text, 0) for key, text in wanted.items() if key in shown}
    return replace(trail, addresses={**trail.addresses, **found})


def _need(host: Host, path: str, remedy: str) -> str:
    try:
        return host.read(path)
    except FileNotFoundError:
        raise ToolError(f"is needed to look after the probes; `{remedy}` makes it", where=path) from None


def _limited(host: Host, symbols: ProbeSymbols) -> frozenset[Address]:
    """Functions whose ftrace location something but a livepatch holds alone: flag I of enabled_functions."""
    try:
        text = host.read(f"{TRACING}/enabled_functions")
    except OSError:
        return frozenset()
    patched = {
        name.rpartition(",")[0]
        for patch in host.names(LIVEPATCHES)
        for owner in host.names(f"{LIVEPATCHES}/{patch}")
        for name in host.names(f"{LIVEPATCHES}/{patch}/{owner}")
        if "," in name
    }
    out: set[Address] = set()
    for found in filter(None, map(_LIMITED.match, text.splitlines())):
        if found[1] not in patched:
            out.update(symbols.addresses.get((found[2] or "vmlinux", found[1]), ()))
    return frozenset(out)

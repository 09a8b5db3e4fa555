"""The places of probe events in a kernel: which there are, planting them, taking them out."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from builder.image.machine import KPROBE_EVENTS, TRACING, Host
from builder.operate.kprobes import Addition, Event, Report
from builder.operate.kprobes.events import by_key
from builder.operate.observe import planted_events, why_refused


@dataclass(frozen=True, slots=True)
class PlantedPlaces:
    """The places that stand in the kernel now, and why others do not."""

    there: tuple[Addition, ...]
    refused: tuple[Report, ...]


def within(host: Host, module: str) -> list[Event]:
    """The places in a module, loaded or not."""
    return [event for event in planted_events(host) if event.spot.module == module]


def alone(host: Host, module: str) -> list[Event]:
    """Those of events that stand in no other code."""
    rows = by_key(planted_events(host)).values()
    return [row for places in rows if all(row.spot.module == module for row in places) for row in places]


def is_held(host: Host, event: Event) -> bool:
    """Whether an event is enabled or has a trigger, so that the kernel keeps its last place."""
    path = f"{TRACING}/events/{event.key}"
    triggers = host.read(f"{path}/trigger").splitlines()
    return not host.read(f"{path}/enable").startswith("0") or any(row[:1] not in ("", "#") for row in triggers)


def plant(host: Host, additions: tuple[Addition, ...], is_loaded: Callable[[str], bool]) -> PlantedPlaces:
    """In one write, or one by one where the kernel objects; what waits for an object that is absent is reported."""
    absent = [row for row in additions if row.after not in ("", "vmlinux") and not is_loaded(row.after)]
    wanted = tuple(row for row in additions if row not in absent)
    refused = [_absent(row) for row in absent]
    try:
        if wanted:
            host.write(KPROBE_EVENTS, "".join(f"{row.event}\n" for row in wanted), append=True)
        return PlantedPlaces(wanted, tuple(refused))
    except OSError:
        answers = [(row, _plant_one(host, row)) for row in wanted]
    there = tuple(row for row, why in answers if why is None)
    return PlantedPlaces(there, (*refused, *(why for _, why in answers if why is not None)))


def _absent(row: Addition) -> Report:
    text = f"{row.after} is not loaded; `bespoke status --repair` plants it once it is"
    return Report("object-absent", row.event.key, str(row.event.spot), text)


def _plant_one(host: Host, row: Addition) -> Report | None:
    """None where it stands there by now, else why not."""
    try:
        host.write(KPROBE_EVENTS, f"{row.event}\n", append=True)
    except OSError as error:
        # By its name it stands there already; by an address the event stands at another.
        if error.errno != errno.EEXIST or row.event.spot.symbol is None:
            return Report("kernel-refused", row.event.key, str(row.event.spot), f"not planted: {why_refused(error)}")
    return None


def take(host: Host, event: Event) -> None:
    """Take one place out, if the kernel does: another's removal may have taken it, or the event is held."""
    for line in event.removals:
        with suppress(OSError):
            return host.write(KPROBE_EVENTS, f"{line}\n", append=True)


def stays(rows: Iterable[Event], module: str) -> str:
    """That places are in a module, and how to remove them."""
    lines = ", ".join(f"`{row.removals[-1]}`" for row in rows)
    return (
        f"kprobe events have places in {module} that have to go first: write {lines} to {KPROBE_EVENTS}, "
        "once an event that has no other place is disabled and has no trigger"
    )

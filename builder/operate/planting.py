"""`bespoke probe FUNC+OFF`: a probe on the original name that counts whichever version runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.errors import LoadError, UsageError
from builder.image.machine import KPROBE_EVENTS, TRACING, Host, patch_state
from builder.operate.kprobes import Event, ProbeFacts, ProbeSymbols, Report, Spot, plan
from builder.operate.kprobes.events import NAME_MOST
from builder.operate.observe import learn_addresses, planted_events, why_refused
from builder.operate.trail import STATE, read_trail, versions, write_trail

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Planting:
    """What came of it: the event, its places, what could not be planted; whether one is in the code that runs."""

    event: str
    places: tuple[str, ...]
    reports: tuple[Report, ...]
    counts: bool = True

    def as_json(self) -> dict[str, object]:
        reports = [row.as_json() for row in self.reports]
        return {"event": self.event, "places": list(self.places), "reports": reports, "counts": self.counts}


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """What is planted: `arguments` as kprobe_events takes them, `name` as `[GROUP/]EVENT` (else after the place)."""

    arguments: tuple[str, ...] = ()
    name: str = ""
    is_return: bool = False
    enable: bool = True


PLAIN = ProbeOptions()


def probe(host: Host, place: str, options: ProbeOptions = PLAIN, *, state: str = STATE) -> Planting:
    """Plant `[MODULE:]FUNC[+OFF]`, an offset in the original, there and in every version of it that is loaded.

    UsageError for a place that does not exist or an event that does already;
    LoadError where the kernel will not have it. Use under `host.lock`: an address is recorded.
    """
    spot = Spot.parse(place)
    if spot.symbol is None:
        raise UsageError("a probe that is to follow the code is given by a function's name, not by an address")
    group, event = _names(options.name, spot)
    if any(row.key == f"{group}/{event}" for row in planted_events(host)):
        raise UsageError(f"there is an event {group}/{event} already; give another name with --name")
    trail = read_trail(host, state)
    ours = versions(trail.records)
    wanted = {spot.symbol} | {n for version in ours for f in version.functions for n in (f.old, f.name)}
    symbols = ProbeSymbols.parse(host.read("/proc/kallsyms"), wanted)
    carriers = frozenset(version.module for version in ours)
    original = _original(spot, symbols, carriers)
    row = Event(options.is_return, group, event, original, options.arguments)
    _write(host, row)
    if (known := learn_addresses(host, trail, [row])) is not trail:
        write_trail(host, known, state)
    facts = ProbeFacts([row.moved(spot)], [], _without(symbols, carriers), ours)
    found = plan(facts)
    places, reports, modules = [str(spot)], list(found.reports), {""}
    for addition in found.additions:
        try:
            _write(host, addition.event)
            places.append(str(addition.event.spot))
            modules.add(addition.module)
        except LoadError as refused:
            reports.append(Report("kernel-refused", row.key, str(addition.event.spot), refused.message))
    if options.enable:
        host.write(f"{TRACING}/events/{row.key}/enable", "1")
    counts = options.is_return or _running(host, facts, spot) in modules
    return Planting(row.key, tuple(places), tuple(reports), counts)


def _running(host: Host, facts: ProbeFacts, spot: Spot) -> str:
    """The module whose version runs in place of a function; empty where the original does, if only at its entry."""
    start = facts.coordinate(spot)
    if start is None or facts.is_entry(start):
        return ""
    key = (start.owner, start.function, start.sympos)
    having = (
        version.module
        for version in reversed(facts.versions)
        if any(f.redirected and (f.object, f.old, f.sympos) == key for f in version.functions)
    )
    return next((name for name in having if (state := patch_state(host, name)) is not None and state.enabled), "")


def _names(name: str, spot: Spot) -> tuple[str, str]:
    group, slash, event = name.rpartition("/")
    suffix = f"_{spot.offset}" if spot.offset else ""
    plain = re.sub(r"\W", "_", spot.symbol or "")[: NAME_MOST - len(suffix)] + suffix
    group, event = (group if slash else "bespoke"), event or plain
    for word in (group, event):
        if not _NAME.fullmatch(word):
            raise UsageError(f"not a name for an event: {word!r}")
        if len(word) > NAME_MOST:
            raise UsageError(f"a name of an event has at most {NAME_MOST} characters: {word}")
    return group, event


def _original(spot: Spot, symbols: ProbeSymbols, carriers: frozenset[str]) -> Spot:
    """The original's place in a form that is not ambiguous: by its address where versions have its name."""
    assert spot.symbol is not None
    if spot.module is not None:
        return spot
    owners = [(owner, rows) for (owner, name), rows in symbols.addresses.items() if name == spot.symbol]
    real = [(owner, rows) for owner, rows in owners if owner not in carriers]
    if not real:
        raise UsageError(f"this kernel has no function {spot.symbol}")
    if len(real) > 1 or len(real[0][1]) > 1:
        raise UsageError(f"{sum(len(r) for _, r in real)} functions are called {spot.symbol}; say MODULE:{spot.symbol}")
    owner, (address,) = real[0]
    if owner != "vmlinux":
        return Spot(owner, spot.symbol, spot.offset)
    if len(owners) == 1:
        return spot
    return Spot(None, None, 0, f"{address + spot.offset:#x}")


def _without(symbols: ProbeSymbols, carriers: frozenset[str]) -> ProbeSymbols:
    """The names without those of the versions, of which an original is never one."""
    keys = symbols.addresses.items()
    return ProbeSymbols({(owner, name): rows for (owner, name), rows in keys if owner not in carriers})


def _write(host: Host, event: Event) -> None:
    try:
        host.write(KPROBE_EVENTS, f"{event}\n", append=True)
    except OSError as error:
        raise LoadError(f"the kernel will not plant {event.spot} ({why_refused(error)})") from None

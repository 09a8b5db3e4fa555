"""Which livepatches a kernel carries, whoever loaded them, and what has become of their versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from builder.errors import ToolError
from builder.image.machine import KPROBES_LIST, MODULES, TRACING, Host, patch_state
from builder.image.marks import SUFFIX, TRACEFS, MarkTotals, parse_totals
from builder.image.transition import LIVEPATCHES
from builder.operate.adoption import by_age, told
from builder.operate.kprobes import Event, Report, Spot, parse_list
from builder.operate.kprobes.events import by_key
from builder.operate.kprobes.plan import ENTRY
from builder.operate.observe import planted_events
from builder.operate.trail import STATE, Record, Trail, read_trail

_ANEW = "disable and remove {name}, then `bespoke load` it"


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """A function that a livepatch replaces; `current` where its version is the one that runs.

    `symbol` is what that version is called in the module, empty for a livepatch that is not ours.
    """

    object: str
    name: str
    sympos: int
    current: bool
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class PatchStatus:
    """A livepatch. `state`: `enabled`, `enabling`, `disabling`, `replaced` or `disabled` (its module lies
    around) or `gone`; `phase` is what the trail has recorded of it, None for one that is not ours."""

    module: str
    state: str
    phase: str | None
    functions: tuple[FunctionStatus, ...]
    moved: tuple[Mapping[str, Any], ...]
    reports: tuple[Mapping[str, str], ...]
    marks: tuple[MarkTotals, ...] = ()


@dataclass(frozen=True, slots=True)
class EventStatus:
    """An event with a place in a version of ours: all its places, and whether it is enabled."""

    event: str
    enabled: bool
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """All of it; `interrupted` names the module whose loading or unloading was cut short."""

    kernel: str
    patches: tuple[PatchStatus, ...]
    waiting: tuple[str, ...]
    events: tuple[EventStatus, ...]
    interrupted: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def survey(host: Host, state: str = STATE) -> Status:
    """What there is; changes nothing."""
    trail = read_trail(host, state)
    shown = host.names(LIVEPATCHES)
    names = [*(row.module for row in trail.records), *(n for n in shown if trail.find(n) is None)]
    order = by_age(host, names)
    states = {name: _state(host, name, name in shown, trail) for name in names}
    running = [name for name in order if states[name] in ("enabled", "enabling")]
    functions = {name: _functions(host, name, trail.find(name)) for name in names}
    newest = {key: name for name in running for key in functions[name]}
    events = _named_events(host, trail)
    known: set[Report] = set()

    def reports(name: str) -> tuple[Mapping[str, str], ...]:
        """Each once, by the oldest version of which it is told."""
        record = trail.find(name)
        lost = functions[name] if record is None and name in running else ()
        rows = record.reports if record is not None else _lost(events, name, lost, ours=bool(lost and told(host, name)))
        new = [row for row in rows if row not in known]
        known.update(new)
        return tuple(row.as_json() for row in new)

    patches = tuple(
        PatchStatus(
            name,
            states[name],
            record.phase.value if (record := trail.find(name)) is not None else None,
            tuple(
                FunctionStatus(*key, current=newest.get(key) == name, symbol=_symbols(record).get(key, ""))
                for key in functions[name]
            ),
            tuple(asdict(row) for row in record.moved) if record is not None else (),
            reports(name),
            _marks(host, name),
        )
        for name in order
    )
    changing = next((n for n in names if states[n] in ("enabling", "disabling")), None)
    waiting = host.waiting(enabled=states[changing] == "enabling") if changing is not None else ()
    interrupted = trail.interrupted
    return Status(
        kernel=host.read("/proc/sys/kernel/osrelease").strip(),
        patches=patches,
        waiting=waiting,
        events=_events(host, events, set(names)),
        interrupted=interrupted.module if interrupted is not None else None,
    )


def _marks(host: Host, name: str) -> tuple[MarkTotals, ...]:
    """What the marks of a module have seen; none for a module without marks."""
    try:
        return tuple(parse_totals(host.read(f"{TRACEFS}/{name}{SUFFIX}")))
    except OSError:
        return ()


def _state(host: Host, name: str, shown: bool, trail: Trail) -> str:
    if shown:
        patch = patch_state(host, name)
        if patch is None:
            return "gone"
        if patch.transition:
            return "enabling" if patch.enabled else "disabling"
        return "enabled" if patch.enabled else "disabled"
    if not host.names(f"{MODULES}/{name}"):
        return "gone"
    return "replaced" if _is_replaced(host, name, trail) else "disabled"


def _is_replaced(host: Host, name: str, trail: Trail) -> bool:
    """Whether a newer one of ours that replaces all others is enabled: else it was disabled by hand."""
    names = [row.module for row in trail.records]
    newer = trail.records[names.index(name) + 1 :] if name in names else ()
    states = (patch_state(host, row.module) for row in newer if row.manifest.replace)
    return any(state is not None and state.enabled for state in states)


def _functions(host: Host, name: str, record: Record | None) -> list[tuple[str, str, int]]:
    """From sysfs (`OBJECT/FUNCTION,SYMPOS`), or of one that has gone from there from its manifest."""
    found = []
    for owner in host.names(f"{LIVEPATCHES}/{name}"):
        for entry in host.names(f"{LIVEPATCHES}/{name}/{owner}"):
            function, comma, sympos = entry.rpartition(",")
            if comma and sympos.isdigit():
                found.append((owner, function, int(sympos)))
    return found or list(_symbols(record))


def _symbols(record: Record | None) -> dict[tuple[str, str, int], str]:
    """The functions that a livepatch of ours replaces, and the symbols of their new versions."""
    rows = record.manifest.redirected if record is not None else ()
    # sysfs counts from 1 also where the name is unique (klp_init_func, kernel/livepatch/core.c, v6.1)
    return {(f.object, f.old.name, f.old.sympos or 1): f.symbol for f in rows if f.old is not None}


def _named_events(host: Host, trail: Trail) -> tuple[Event, ...]:
    """All events, those by address at the place that it is, where that is known."""
    try:
        events = planted_events(host)
    except ToolError:  # tracefs may not be mounted; the livepatches are there all the same
        return ()
    if not trail.addresses:
        return events
    try:
        rows = {row.address: row for row in parse_list(host.read(KPROBES_LIST))}
    except FileNotFoundError:  # nor may debugfs
        return events
    out = []
    for event in events:
        address = trail.addresses.get(event.spot.address) if event.spot.symbol is None else None
        row = rows.get(address) if address is not None else None
        out.append(event.moved(Spot(row.module or None, row.symbol, row.offset)) if row is not None else event)
    return tuple(out)


def _lost(
    events: Iterable[Event], name: str, functions: Iterable[tuple[str, str, int]], *, ours: bool
) -> Iterator[Report]:
    """The probes whose code no longer runs since `name` was loaded, which is not by us and so took none along."""
    text = f"{name} replaces it and was not loaded by bespoke: "
    text += "`bespoke status --repair` plants it there" if ours else _ANEW.format(name=name)
    having = {event.key for event in events if event.spot.module == name}
    replaced = {(owner, function) for owner, function, _ in functions}
    for event in events:
        spot = event.spot
        function = (spot.symbol or "").partition(".cold")[0]
        if event.is_return or event.key in having or (spot.module or "vmlinux", function) not in replaced:
            continue
        if spot.symbol == function and spot.offset in ENTRY:
            continue  # ftrace's, which fires whichever version runs
        yield Report("lost-code", event.key, str(spot), text)


def _events(host: Host, events: Iterable[Event], modules: set[str]) -> tuple[EventStatus, ...]:
    return tuple(
        EventStatus(key, _enabled(host, key), tuple(str(row.spot) for row in rows))
        for key, rows in by_key(events).items()
        if any(row.spot.module in modules for row in rows)
    )


def _enabled(host: Host, key: str) -> bool:
    try:
        return host.read(f"{TRACING}/events/{key}/enable").strip().startswith("1")
    except OSError:
        return False

"""Livepatches on a kernel that runs: load, unload, repair. The probes go where the code goes.

Each function is its steps in order. Before a step that changes the kernel the
trail says that it is begun; what has to be undone or done after a kill follows
from the trail and from what the kernel itself shows.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from builder.errors import LoadError, UsageError
from builder.image.machine import MODULES, OPTIMIZATION, TRACING, Host, patch_state
from builder.image.marks import SUFFIX
from builder.image.transition import LIVEPATCHES, PatchState
from builder.operate import places
from builder.operate.adoption import by_age, unrecorded
from builder.operate.kprobes import Addition, Event, Report
from builder.operate.observe import learn_addresses, observe, planted_events
from builder.operate.trail import STATE, Moved, Phase, Record, Trail, manifest_of, read_trail, write_trail

Say = Callable[[str], None]
_TICK = 0.1
_DELETE_PATIENCE = 10.0
"""Seconds for which a module may still be held by what has just been disabled (klp_free_patch_finish)."""


@dataclass(frozen=True, slots=True)
class OperationOutcome:
    """What an operation did: the module, seconds of the transition, probes that follow and those that do not."""

    module: str
    seconds: float
    moved: tuple[Moved, ...] = ()
    reports: tuple[Report, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "seconds": round(self.seconds, 3),
            "moved": [{"event": m.line, "source": m.source, "confidence": m.confidence} for m in self.moved],
            "reports": [row.as_json() for row in self.reports],
        }


class Live:
    """One kernel and the trail of it; use under `host.lock`."""

    def __init__(self, host: Host, *, state: str = STATE, timeout: float = 60.0, progress: Say | None = None) -> None:
        self.host = host
        self.state = state
        self.timeout = timeout
        self.say: Say = progress or (lambda _: None)
        self.trail: Trail = read_trail(host, state)

    # Load

    def load(self, module: bytes, where: str) -> OperationOutcome:
        """Load a livepatch of ours and wait for its transition; all probes follow, or nothing is changed.

        Raises LoadError where the kernel will not have it or a task holds the
        transition up for longer than the time-out.
        """
        manifest = manifest_of(module, where)
        record = Record(manifest.name, Phase.LOADING, manifest)
        self._may_load(record, where)
        name = record.module
        if before := places.within(self.host, name):
            raise LoadError(
                f"{places.stays(before, name)}; they would be planted in it wherever they fall", where=where
            )
        seen = observe(self.host, self.trail.with_(record))
        found = seen.plan()
        record = replace(record, moved=_moved(found.additions, name), reports=found.reports)
        self._note(record)
        self.say(f"loading {name}, planting probes in the new code")

        refused: list[Report] = []

        def plant() -> None:
            done = self._plant(found.additions)
            refused.extend(done.refused)
            self._note(replace(record, moved=_moved(done.there, name)))

        try:
            self.host.insert(module, name, plant)
        except OSError as error:
            self._abandon(name)
            raise LoadError(_refusal(error, found.blockers), where=where) from None
        try:
            seconds = self._settle(name, enabled=True)
        except LoadError as late:
            self._way_back(name, late)
        return OperationOutcome(name, seconds, *self._confirm(name, seen.events, refused))

    def _may_load(self, record: Record, where: str) -> None:
        if (other := self.trail.interrupted) is not None:
            raise UsageError(f"{other.phase.value} {other.module} was interrupted: run `bespoke status --repair` first")
        release = self.host.read("/proc/sys/kernel/osrelease").strip()
        wanted = record.manifest.kernel.release
        if wanted != release:
            raise LoadError(f"is for kernel {wanted}, this is {release}", where=where)
        if self.is_loaded(record.module) or self.trail.find(record.module) is not None:
            raise LoadError(f"module {record.module} is loaded already", where=where)
        for below in record.below:
            if self.patch_state(below) is None:
                raise LoadError(f"was built on {below}, which is not enabled here", where=where)

    def _way_back(self, name: str, late: LoadError) -> None:
        """Reverse a transition that takes too long, and take everything out again."""
        self.say("too long: going back")
        self._enable(name, "0")
        self._settle(name, enabled=False)
        self._abandon(name)
        raise LoadError(f"{late.message}; everything was taken back") from None

    def _abandon(self, name: str) -> None:
        """Back to where nothing of a module is left, its functions being off."""
        self._uproot(name)
        self._delete(name)
        self._drop(name)

    def _confirm(
        self, name: str, seen: Iterable[Event] = (), refused: Iterable[Report] = ()
    ) -> tuple[tuple[Moved, ...], tuple[Report, ...]]:
        """The transition is over: probes that came meanwhile follow too, and those `refused` by the kernel are named.

        `seen` are the events that the record was made for: where none has come since, they are not looked at again.
        """
        record = self.trail.find(name)
        assert record is not None
        moved, planned = record.moved, record.reports
        before = {row.line for row in moved} | {str(event) for event in seen}
        if not {str(event) for event in planted_events(self.host)} <= before:
            found = observe(self.host, self.trail).plan()
            done = self._plant(found.additions)
            moved = tuple(dict.fromkeys((*moved, *_moved(done.there, name))))
            planned, refused = found.reports, (*refused, *done.refused)
        reports = tuple(dict.fromkeys((*planned, *refused)))
        self._note(replace(record, phase=Phase.ENABLED, moved=moved, reports=reports))
        return moved, reports

    # Unload

    def unload(self, name: str) -> OperationOutcome:
        """Disable a livepatch of ours, wait for the transition, and take it out with what was planted in it."""
        record = self.trail.find(name)
        if record is None:
            raise UsageError(f"{name} is no livepatch that was loaded by bespoke (see `bespoke status`)")
        if (other := self.trail.interrupted) is not None:
            raise UsageError(f"{other.phase.value} {other.module} was interrupted: run `bespoke status --repair` first")
        for above in self.trail.records:
            if name in above.below and self.is_loaded(above.module):
                raise LoadError(f"{above.module} was built on {name} and uses its variables: unload that first")
        self._note(replace(record, phase=Phase.UNLOADING))
        kept, refused = self._back_to_originals(name)
        if stuck := [row for row in places.alone(self.host, name) if places.is_held(self.host, row)]:
            self._note(replace(record, phase=Phase.ENABLED))
            raise LoadError(f"{places.stays(stuck, name)}; {name} is still enabled")
        state = self.patch_state(name)
        if state is not None and state.enabled:
            self.say(f"disabling {name}")
            self._enable(name, "0")
        try:
            seconds = self._settle(name, enabled=False)
        except LoadError as late:
            self.say("too long: enabling it again")
            self._enable(name, "1")
            self._settle(name, enabled=True)
            self._note(replace(record, phase=Phase.ENABLED))
            raise LoadError(f"{late.message}; it is enabled again") from None
        reports = self._finish_unload(name)
        return OperationOutcome(name, seconds, kept, (*refused, *reports))

    def unload_all(self) -> Iterator[OperationOutcome]:
        """Take out all that the trail has, the newest first, for it may stand on others; each as `unload` does."""
        for record in reversed(self.trail.records):
            yield self.unload(record.module)

    def _finish_unload(self, name: str) -> tuple[Report, ...]:
        """No task runs its code any more: take out the places, then the module, then the record."""
        lost = places.alone(self.host, name)
        self._uproot(name)
        self._switch_off(name)
        self.say(f"removing {name}")
        self._delete(name)
        self._drop(name)
        text = f"it stood only in {name}, for no instruction elsewhere: the event is removed"
        return tuple(Report("lost-place", event.key, str(event.spot), text) for event in lost)

    def _switch_off(self, name: str) -> None:
        """Marks that are on hold their module, and a livepatch that another has replaced is not told to let go."""
        if f"{name}{SUFFIX}" not in self.host.names(TRACING):
            return
        instances = (f"{TRACING}/instances/{own}" for own in self.host.names(f"{TRACING}/instances"))
        for place in (TRACING, *instances):
            if "enable" in self.host.names(f"{place}/events/{name}"):
                self.host.write(f"{place}/events/{name}/enable", "0")

    def _back_to_originals(self, name: str) -> tuple[tuple[Moved, ...], tuple[Report, ...]]:
        """Give events that stand only in a version that goes a place in what runs afterwards."""
        rows = observe(self.host, self.trail).orphans(name) if places.alone(self.host, name) else ()
        done = self._plant(rows)
        return _moved(done.there), done.refused

    # Repair

    def repair(self) -> list[str]:
        """Bring what the trail records and what the kernel shows together; what was done, in words."""
        done: list[str] = []
        for record in self.trail.records:
            done += self._repair_one(record)
        adopted = self._adopt()
        done += [f"{name} was loaded by something else: it is looked after now" for name in adopted]
        found = observe(self.host, self.trail).plan()
        for record in self.trail.records:
            if record.module in adopted:
                self._note(replace(record, reports=found.reports))
        if more := found.additions:
            for record in self.trail.records:
                if mine := _moved(more, record.module):
                    self._note(replace(record, moved=tuple(dict.fromkeys((*record.moved, *mine)))))
            self._plant(more)
            done += [f"planted {row.event}" for row in more]
        return done

    def _adopt(self) -> tuple[str, ...]:
        """Record what something else has loaded, where it was loaded among the others."""
        found = tuple(unrecorded(self.host, self.trail))
        for record in found:
            self._settle(record.module, enabled=True)
        if found:
            rows = {row.module: row for row in (*self.trail.records, *found)}
            self.trail = replace(self.trail, records=tuple(rows[name] for name in by_age(self.host, rows)))
            write_trail(self.host, self.trail, self.state)
        return tuple(row.module for row in found)

    def _repair_one(self, record: Record) -> list[str]:
        name, state = record.module, self.patch_state(record.module)
        if state is not None and state.enabled and record.phase is not Phase.ENABLED:
            self._settle(name, enabled=True)
            self._confirm(name)
            return [f"{record.phase.value} {name} was interrupted: it is enabled"]
        if record.phase is Phase.ENABLED and (state is not None or self.is_loaded(name)):
            return []  # one that another livepatch has replaced stays until it is unloaded
        if state is not None:
            self._back_to_originals(name)
            self._settle(name, enabled=False)
        self._optimize_again(name)
        self._finish_unload(name)
        return [f"{record.phase.value} {name} was interrupted: it is out"]

    # What the kernel shows

    def is_loaded(self, name: str) -> bool:
        return bool(self.host.names(f"{MODULES}/{name}"))

    def patch_state(self, name: str) -> PatchState | None:
        """None where no livepatch of that name is enabled or in transition."""
        return patch_state(self.host, name)

    def _settle(self, name: str, *, enabled: bool) -> float:
        """Wait for the end of a transition; seconds waited. LoadError names the tasks that hold it up."""
        started = time.monotonic()
        while (state := self.patch_state(name)) is not None and (state.transition or not enabled):
            waited = time.monotonic() - started
            if waited > self.timeout:
                held = "; ".join(self.host.waiting(enabled=enabled)) or "no task, though"
                raise LoadError(f"the transition of {name} was not done within {self.timeout:g} s, held up by {held}")
            self.say(f"transition of {name}: {waited:.1f} s")
            self.host.pause(_TICK)
        if state is None and enabled:
            raise LoadError(f"{name} has disabled itself")
        return time.monotonic() - started

    def _enable(self, name: str, value: str) -> None:
        """Write `enabled`; the kernel refuses it while another livepatch is in transition."""
        started = time.monotonic()
        while True:
            try:
                return self.host.write(f"{LIVEPATCHES}/{name}/enabled", value)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() - started > self.timeout:
                    raise LoadError(f"{name}: enabled={value} was refused ({error.strerror})") from None
            self.host.pause(_TICK)

    # What is changed

    def _note(self, record: Record) -> None:
        self.trail = self.trail.with_(record)
        write_trail(self.host, self.trail, self.state)

    def _drop(self, name: str) -> None:
        self.trail = self.trail.without(name)
        write_trail(self.host, self.trail, self.state)

    def _plant(self, additions: tuple[Addition, ...]) -> places.PlantedPlaces:
        """Plant what can be, and record the addresses."""
        done = places.plant(self.host, additions, self.is_loaded)
        trail = learn_addresses(self.host, self.trail, (row.event for row in done.there))
        if trail is not self.trail:
            self.trail = trail
            write_trail(self.host, trail, self.state)
        return done

    def _uproot(self, name: str) -> None:
        """Take out every place in a module. LoadError where one stays: it would be planted in the next of that name."""
        record = self.trail.find(name)
        there = places.within(self.host, name)
        for event in there:
            places.take(self.host, event)
        if left := places.within(self.host, name):
            raise LoadError(f"{places.stays(left, name)}; `bespoke status --repair` then finishes this")
        if record is not None and (there or record.moved) and self.is_loaded(name):
            self._forget_places(record)

    def _forget_places(self, record: Record) -> None:
        """Wait until the kernel has forgotten what was planted in a module, before that goes.

        A probe that was optimized stays known by its address until the optimizer has run, also when
        its module is gone; what is planted there in a next module is then refused, with a warning
        (reuse_unused_kprobe, kernel/kprobes.c, v6.1). Switching the optimization off waits for that.
        """
        try:
            if self.host.read(OPTIMIZATION).strip() != "1":
                return
        except OSError:
            return  # a kernel that does not optimize probes
        self._note(replace(record, unoptimized=True))
        self.host.write(OPTIMIZATION, "0")
        self._optimize_again(record.module)

    def _optimize_again(self, name: str) -> None:
        record = self.trail.find(name)
        if record is not None and record.unoptimized:
            self.host.write(OPTIMIZATION, "1")
            self._note(replace(record, unoptimized=False))

    def _delete(self, name: str) -> None:
        started = time.monotonic()
        while self.is_loaded(name):
            try:
                return self.host.delete(name)
            except OSError as error:
                if time.monotonic() - started > _DELETE_PATIENCE:
                    raise LoadError(f"module {name} cannot be removed ({error.strerror})") from None
            self.host.pause(_TICK)


def _moved(additions: tuple[Addition, ...], module: str | None = None) -> tuple[Moved, ...]:
    return tuple(Moved(str(a.event), a.source, a.confidence) for a in additions if module in (None, a.module))


def _refusal(error: OSError, blockers: tuple[Report, ...]) -> str:
    """Why the kernel would not have a livepatch, naming the probes that stand in the way."""
    reason = f"the kernel refused it ({error.strerror})"
    if error.errno == errno.EBUSY and blockers:
        return f"{reason}: " + "; ".join(f"{row.message} ({row.place} at {row.probe})" for row in blockers)
    return f"{reason}; its log says why"

"""The kprobes of a simulated kernel: what may be planted where, and what counts when code runs.

The rules are those of `kernel/kprobes.c`, `kernel/trace/trace_kprobe.c` and
`arch/x86/kernel/kprobes/core.c` (Linux 6.1); errors are the kernel's numbers.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from builder.arch import TARGET
from builder.binary import Address
from builder.image.execute import Machine
from builder.image.simulated import SimulatedKernel
from builder.load.livepatch import ftrace_location
from builder.operate.kprobes.events import COMPARED, NAME_MOST, Event, Spot
from builder.operate.kprobes.fetch import Filter, fetch

_TABLES = ("__jump_table", ".static_call_sites")
_LONGEST = 15


def refused(code: int, path: str = "") -> OSError:
    return OSError(code, os.strerror(code), path) if path else OSError(code, os.strerror(code))


@dataclass(slots=True)
class Probe:
    """One planted place; `address` None while its module is not loaded, `gone` once it was."""

    event: Event
    address: Address | None = None
    gone: bool = False
    hits: int = 0

    @property
    def shown(self) -> Event:
        """As kprobe_events shows it: of an address only a hash (`%p`), here any that tells addresses apart."""
        spot = self.event.spot
        if spot.symbol is not None:
            return self.event
        digest = zlib.crc32(spot.address.encode())
        return self.event.moved(Spot(None, None, 0, f"0x{digest:016x}"))


@dataclass(slots=True)
class EventState:
    """What all places of an event share."""

    enabled: bool = False
    filter: Filter = field(default_factory=Filter)
    triggers: list[str] = field(default_factory=list)
    hits: int = 0


@dataclass(frozen=True, slots=True)
class Direct:
    """A probe that a module registered by itself: user space cannot move it."""

    address: Address
    post_handler: bool


class Registry:
    """All probes of one simulated kernel."""

    def __init__(self, kernel: SimulatedKernel) -> None:
        self.kernel = kernel
        self.probes: list[Probe] = []
        self.events: dict[str, EventState] = {}
        self.direct: list[Direct] = []

    # What is planted

    def add(self, event: Event) -> None:
        """trace_kprobe_create: a new event, or one more place of one that is there. OSError as the kernel."""
        if max(len(event.group), len(event.name)) > NAME_MOST:
            raise refused(errno.EINVAL)
        siblings = [probe for probe in self.probes if probe.event.key == event.key]
        if siblings:
            first = siblings[0].event
            if first.is_return != event.is_return or _shape(first.arguments) != _shape(event.arguments):
                raise refused(errno.EEXIST)
            if any(_is_same(probe.event, event) for probe in siblings):
                raise refused(errno.EEXIST)
        if event.spot.symbol is None or not event.spot.module:
            self._unambiguous(event.spot)
        probe = Probe(event)
        self._register(probe)
        self.probes.append(probe)
        self.events.setdefault(event.key, EventState())

    def _unambiguous(self, spot: Spot) -> None:
        """number_of_same_symbols(): a bare name must be the only one, modules included."""
        if spot.symbol is None:
            return
        count = len(self.kernel.kernel.symbols_named(spot.symbol))
        count += sum(len(names.get(spot.symbol, ())) for names in self.kernel.symbols.of_module.values())
        if count != 1:
            raise refused(errno.ENOENT if not count else errno.EADDRNOTAVAIL)

    def _register(self, probe: Probe) -> None:
        """register_kprobe; a place in a module that is not loaded waits for it."""
        spot = probe.event.spot
        if spot.module and spot.module not in self.kernel.modules:
            return
        address = self._address(spot)
        if address is None:
            raise refused(errno.ENOENT)
        self.check(address, is_return=probe.event.is_return, offset=spot.offset)
        probe.address, probe.gone = address, False

    def _address(self, spot: Spot) -> Address | None:
        if spot.symbol is None:
            return Address(spot.address, 0)
        if spot.module:
            rows = self.kernel.symbols.of_module.get(spot.module, {}).get(spot.symbol, ())
        else:
            rows = tuple(symbol.address for symbol in self.kernel.kernel.symbols_named(spot.symbol))
            rows = rows or next(
                (n[spot.symbol] for n in self.kernel.symbols.of_module.values() if spot.symbol in n), ()
            )
        return rows[0] + spot.offset if rows else None

    def check(self, address: Address, *, is_return: bool = False, offset: int = 0) -> None:
        """check_kprobe_address_safe and can_probe: code, a boundary, nothing that is patched by others."""
        start, size = self.function(address)
        if size <= 0 or address >= start + size:
            raise refused(errno.EINVAL)
        if is_return and offset:
            raise refused(errno.EINVAL)
        code = self.kernel.memory.read(start, min(size, address - start + _LONGEST))
        if address not in {insn.offset for insn in TARGET.decode(code, start)}:
            raise refused(errno.EILSEQ)
        if any(site <= address < site + 5 for site in self._reserved(address)):
            raise refused(errno.EBUSY)

    def function(self, address: Address) -> tuple[Address, int]:
        """Start and size of the function that holds an address; size 0 where there is none."""
        kernel = self.kernel
        for names in kernel.symbols.of_module.values():
            places = sorted({place for rows in names.values() for place in rows})
            starts = [place for place in places if place <= address]
            if starts and (region := kernel.memory.find(address)) is not None and region.base <= starts[-1]:
                return starts[-1], kernel.symbols.function_size(starts[-1])
        if kernel.memory.find(address) is None:
            return address, 0
        near = kernel.kernel.nearest(address)
        if near is None:
            return address, 0
        return near.address, kernel.symbols.function_size(near.address)

    def _reserved(self, address: Address) -> Iterator[Address]:
        """Places that jump labels and static calls of the module write (jump_label_text_reserved)."""
        for module in self.kernel.modules.values():
            if not module.holds(address):
                continue
            for name, stride in zip(_TABLES, (16, 8), strict=True):
                section = module.section(name)
                rows = range(section.address, section.end - stride + 1, stride) if section is not None else ()
                for place in map(Address, rows):
                    yield place + self.kernel.memory.s32(place)

    def remove(self, key: str, head: str, arguments: tuple[str, ...]) -> None:
        """dyn_event_release: the places of an event that begin with `head`, or all of it. OSError as the kernel."""
        found = [probe for probe in self.probes if probe.event.key == key and _matches(probe.shown, head, arguments)]
        if not found:
            raise refused(errno.ENOENT)
        state = self.events[key]
        for probe in found:  # one by one: what was taken before the one that is refused has gone
            if sum(other.event.key == key for other in self.probes) == 1:
                if state.enabled or state.triggers:
                    raise refused(errno.EBUSY)
                del self.events[key]
            self.probes = [other for other in self.probes if other is not probe]

    def register_kprobe(self, address: Address, *, post_handler: bool = False) -> Direct:
        """A module's own register_kprobe(); a post_handler wants the ftrace location for itself."""
        self.check(address)
        if post_handler and address in {r.place for r in self.kernel.redirections.values()}:
            raise refused(errno.EBUSY)
        direct = Direct(address, post_handler)
        self.direct.append(direct)
        return direct

    def blocks(self, places: Iterable[Address]) -> bool:
        """Whether a probe with a post_handler holds one of these ftrace locations (kprobe_ipmodify_ops)."""
        held = {direct.address for direct in self.direct if direct.post_handler}
        return bool(held & set(places))

    # Modules that come and go

    def coming(self, module: str) -> None:
        """trace_kprobe_module_callback: what waited is planted; what cannot be stays unplanted."""
        for probe in self.probes:
            if probe.event.spot.module == module:
                try:
                    self._register(probe)
                except OSError:
                    probe.address = None

    def going(self, module: str) -> None:
        """kprobes_module_callback: probes in the module are gone."""
        for probe in self.probes:
            if probe.event.spot.module == module:
                probe.address, probe.gone = None, True

    # Execution

    def armed(self) -> dict[Address, list[Probe]]:
        """By address, the probes that fire: those of events that are enabled or have a trigger."""
        out: dict[Address, list[Probe]] = {}
        for probe in self.probes:
            state = self.events[probe.event.key]
            if probe.address is not None and (state.enabled or state.triggers):
                out.setdefault(probe.address, []).append(probe)
        return out

    def watch(self, machine: Machine) -> None:
        """Count what a processor runs from now on; before its first run only."""
        for address, probes in self.armed().items():
            machine.trace(self._counter(machine, probes), address, address + 1)

    def _counter(self, machine: Machine, probes: list[Probe]) -> Callable[[Address, int], None]:
        def count(_address: Address, _size: int) -> None:
            for probe in probes:
                state = self.events[probe.event.key]
                probe.hits += 1
                values = {name: value for name, value in fetch(machine, probe.event.arguments)}
                if state.filter.passes(values):
                    state.hits += 1

        return count

    def is_ftrace(self, address: Address) -> bool:
        start, _ = self.function(address)
        return ftrace_location(self.kernel, start) == address


def _is_same(event: Event, other: Event) -> bool:
    """trace_kprobe_has_same_kprobe(): two places of an event by address are the same, for neither has a symbol."""
    if event.spot.symbol is None and other.spot.symbol is None:
        return event.arguments == other.arguments
    return event == other


def _matches(event: Event, head: str, arguments: tuple[str, ...]) -> bool:
    """trace_kprobe_match_command_head(), which prints the place into a buffer of its own."""
    if not head:
        return True
    return str(event.spot)[:COMPARED] == head and event.arguments[: len(arguments)] == arguments


def _shape(arguments: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names and types of fetch arguments, which all places of an event must have in common."""
    rows = []
    for argument in arguments:
        name, _, rest = argument.partition("=")
        rows.append((name, rest.rpartition(":")[2] if ":" in rest else ""))
    return rows

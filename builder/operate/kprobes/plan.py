"""Where each probe stands in the versions that are loaded: what to append, and what cannot follow.

A place is a coordinate (module, function, offset), the original's module being
its object. The instruction maps join the coordinates of one instruction in all
versions; an event that has one of them is to have them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, reduce
from operator import and_
from typing import Final

from builder.arch import TARGET
from builder.binary import Address
from builder.operate.kprobes.arguments import names_of, needs
from builder.operate.kprobes.events import Event, Planted, Spot, by_key
from builder.operate.kprobes.versions import Mapped, ProbedFunction, ProbeSymbols, Version

ENTRY = (0, len(TARGET.entry_mark.code))
"""Where ftrace's call stands: at the entry, or after the mark of the entry where the kernel has such."""


LEAST: Final = 75
"""A place of less confidence (of 100) is as likely wrong as right: it is reported, not planted."""


@dataclass(frozen=True, slots=True)
class Report:
    """A probe that stays where it is, and why: `code` is stable, `probe` names it, `place` is its code."""

    code: str
    probe: str
    place: str
    message: str

    def as_json(self) -> dict[str, str]:
        return dict(asdict(self))


@dataclass(frozen=True, slots=True)
class Addition:
    """A place to append to an event, and the one it stands for; `confidence` is 1 to 100.

    `after` names the object whose relocations must have been written before a
    probe may copy the instruction; empty where it can be planted at once.
    """

    event: Event
    source: str
    module: str
    confidence: int
    after: str = ""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """`additions` in order; `reports` on what cannot follow; `blockers` keep the patch from being enabled."""

    additions: tuple[Addition, ...]
    reports: tuple[Report, ...]
    blockers: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class Coordinate:
    """`module` is that of a version, or empty for the original, whose `owner` tells its object."""

    module: str
    owner: str
    function: str
    sympos: int
    offset: int


@dataclass(frozen=True)
class ProbeFacts:
    """What is known of a kernel. `versions` are the modules of ours, oldest first, those to come included.

    `limited` are the traced functions that something holds exclusively (IPMODIFY), by their address.
    `addresses` are known of events by address, by the text that is shown for them.
    """

    events: Sequence[Event]
    planted: Sequence[Planted]
    symbols: ProbeSymbols
    versions: Sequence[Version]
    limited: frozenset[Address] = frozenset()
    addresses: Mapping[str, Address] = field(default_factory=dict)

    @cached_property
    def by_module(self) -> Mapping[str, Version]:
        return {version.module: version for version in self.versions}

    @cached_property
    def bodies(self) -> Sequence[tuple[Address, ProbedFunction]]:
        """Start and function of each original body of which there is another version."""
        rows = ((self.symbols.of(f), f) for version in self.versions for f in version.functions if not f.since)
        return [(start, function) for start, function in rows if start is not None]

    def body_at(self, address: Address) -> tuple[Address, ProbedFunction] | None:
        return next(((s, f) for s, f in self.bodies if s <= address < s + max(f.old_size, 1)), None)

    def address(self, spot: Spot) -> Address | None:
        """The address of a place that is planted; None while its module is not loaded."""
        if spot.symbol is None:
            return self._at_address.get(spot.address)
        base = self.symbols.lookup(spot.module, spot.symbol)
        return base + spot.offset if base is not None else None

    @cached_property
    def _at_address(self) -> Mapping[str, Address]:
        """Events by address: the listing hashes it, so it is known where it is recorded, plain or the only one left."""
        texts = [e.spot.address for e in self.events if e.spot.is_telling]
        addresses = {row.address for row in self.planted}
        plain = {text: self.addresses.get(text, Address(text, 0)) for text in texts}
        known = {text: address for text, address in plain.items() if address in addresses}
        left = [text for text in texts if text not in known]
        spare = sorted((self._rows - Counter(known.values()) - self._named).elements())
        if len(left) == 1 and len(spare) == 1:
            known[left[0]] = spare[0]
        return known

    @cached_property
    def _rows(self) -> Counter[Address]:
        return Counter(row.address for row in self.planted)

    @cached_property
    def _named(self) -> Counter[Address]:
        places = (self.address(e.spot) for e in self.events if e.spot.symbol is not None)
        return Counter(place for place in places if place is not None)

    def foreign(self) -> list[Planted]:
        """Rows of kprobes/list that no event explains: planted by modules, perf or BPF."""
        spare = self._rows - self._named - Counter(self._at_address.values())
        rows = []
        for row in self.planted:
            if spare[row.address] > 0:
                spare[row.address] -= 1
                rows.append(row)
        return rows

    # Coordinates

    def coordinate(self, spot: Spot) -> Coordinate | None:
        """Of a place in a body of which there are versions; None elsewhere."""
        if spot.symbol is not None and spot.module in self.by_module:
            return Coordinate(spot.module or "", "", spot.symbol, 0, spot.offset)
        address = self.address(spot)
        if address is not None:
            found = self.body_at(address)
            if found is None:
                return None
            start, function = found
            return Coordinate("", function.object, function.old, function.sympos, address - start)
        if spot.symbol is not None and spot.module is not None:  # its module is still to come
            for version in self.versions:
                for function in version.replacing(spot.module, spot.symbol):
                    return Coordinate("", function.object, function.old, function.sympos, spot.offset)
        return None

    def everywhere(self, start: Coordinate, held: Container[Coordinate]) -> dict[Coordinate, tuple[int, int]]:
        """All coordinates of the instruction at `start`, each with confidence and mask of what is the same.

        A copy of an instruction leads back to it only together with all the others: `held` are the event's places.
        """
        found = {start: (100, ~0)}
        waiting = [(start, True)]
        while waiting:
            here, may_go_back = waiting.pop()
            confidence, same = found[here]
            steps = [(row, False) for row in self._on(here)]
            if may_go_back:
                steps += [(row, True) for row in self._back(here, held)]
            for (other, other_confidence, other_same), back in steps:
                if other not in found:
                    found[other] = (min(confidence, other_confidence), same & other_same)
                    waiting.append((other, back))
        return found

    def _on(self, here: Coordinate) -> Iterator[tuple[Coordinate, int, int]]:
        """The places in the versions that were made from that which `here` is in."""
        for version in self.versions:
            for function in version.functions:
                base = self._base(function, here)
                for to in function.places(base) if base is not None else ():
                    yield _place(version, to), to.confidence, to.same

    def _back(self, here: Coordinate, held: Container[Coordinate]) -> Iterator[tuple[Coordinate, int, int]]:
        """What a place of a version stands for: for what the event has there, else for its own instruction.

        A place that was come to from what it stands for is not asked.
        """
        version = self.by_module.get(here.module)
        origins = list(version.origins(here.function, here.offset)) if version is not None else []
        rows = [(self._original(function, at), function.places(at), own) for function, at, own in origins]
        known = [row for row in rows if row[0] in held] or [row for row in rows if row[2]]
        for original, copies, _ in known[:1]:
            assert version is not None
            if all(_place(version, copy) in held for copy in copies if _place(version, copy) != here):
                same = reduce(and_, (copy.same for copy in copies))
                yield original, min(copy.confidence for copy in copies), same

    def _base(self, function: ProbedFunction, here: Coordinate) -> int | None:
        """The offset of `here` in what a function's map begins at; None where that is something else."""
        wanted = self._original(function, here.offset)
        return here.offset if wanted == here else None

    def _original(self, function: ProbedFunction, offset: int) -> Coordinate:
        if function.since:
            return Coordinate(function.since, "", function.base, 0, offset)
        return Coordinate("", function.object, function.old, function.sympos, offset)

    def is_entry(self, at: Coordinate) -> bool:
        """Whether a probe there is on the ftrace location, which fires whichever version runs."""
        if at.module or at.offset not in ENTRY:
            return False
        key = (at.owner, at.function, at.sympos)
        return any(f.redirected for v in self.versions for f in v.functions if (f.object, f.old, f.sympos) == key)


def plan(facts: ProbeFacts) -> ProbePlan:
    """What every event needs so that it counts in every version; pure."""
    found = [row for rows in by_key(facts.events).values() for row in _event(facts, rows)]
    additions = tuple(row for row in found if isinstance(row, Addition))
    reports = [*(row for row in found if isinstance(row, Report)), *_foreign(facts)]
    return ProbePlan(additions, tuple(dict.fromkeys(reports)), tuple(_blockers(facts)))


def _event(facts: ProbeFacts, rows: Sequence[Event]) -> Iterator[Addition | Report]:
    """What one event needs, with all its places."""
    places = [(row, facts.coordinate(row.spot)) for row in rows]
    taken = {place for _, place in places if place is not None}
    claimed: dict[Coordinate, Coordinate] = {}
    for row, start in places:
        if start is None or row.is_return or facts.is_entry(start):
            continue
        known = facts.everywhere(start, taken)
        mask, impossible = needs(row.arguments)
        for version in _versions_of(facts, start, known):
            targets = [place for place in known if place.module == version.module]
            why = _shared(version, [claimed.setdefault(target, start) for target in targets], known)
            if why is None and targets and not set(targets) - taken:
                continue
            why = why or _obstacle(version, targets, known, mask, impossible)
            if why is not None:  # of several copies all are planted or none: some would count too little
                yield Report(why[0], row.key, str(row.spot), why[1])
                continue
            for target in targets:
                if target in taken:
                    continue
                taken.add(target)
                spot = Spot(target.module, target.function, target.offset)
                late = target.offset in version.late.get(target.function, ())
                after = version.owner(target.function) if late else ""
                yield Addition(row.moved(spot), str(row.spot), version.module, known[target][0], after)


def _versions_of(facts: ProbeFacts, start: Coordinate, known: Iterable[Coordinate]) -> list[Version]:
    """The versions that carry the function that a place lies in, whether or not they have the instruction."""
    originals = {(p.owner, p.function, p.sympos) for p in (start, *known) if not p.module}
    carried = {(p.module, p.function) for p in (start, *known) if p.module}
    out = []
    for version in facts.versions:
        if version.module == start.module:
            continue
        if any((f.object, f.old, f.sympos) in originals or (f.since, f.base) in carried for f in version.functions):
            out.append(version)
    return out


def _place(version: Version, mapped: Mapped) -> Coordinate:
    return Coordinate(version.module, "", mapped.function, 0, mapped.offset)


def _shared(version: Version, claims: Iterable[Coordinate], known: Container[Coordinate]) -> tuple[str, str] | None:
    """Code and text where another place of the event leads to the same one: the kernel plants it once."""
    if all(start in known for start in claims):
        return None
    return "shared-place", f"{version.module} has one place for it and for another place of the event"


def _obstacle(
    version: Version,
    targets: Sequence[Coordinate],
    known: Mapping[Coordinate, tuple[int, int]],
    mask: int,
    impossible: str | None,
) -> tuple[str, str] | None:
    """Code and text of why an event cannot be planted in a version."""
    if not targets:
        return "no-counterpart", f"{version.module} has no instruction that stands for it"
    sure = min(known[target][0] for target in targets)
    if sure < LEAST:
        there = ", ".join(f"{target.function}+{target.offset:#x}" for target in targets)
        return (
            "uncertain",
            f"{version.module} may have it at {there} (confidence {sure} of 100): too little to plant it",
        )
    if impossible is not None:
        return "arguments", f"it fetches {impossible}, which no map can prove the same in {version.module}"
    differs = mask & ~reduce(and_, (known[target][1] for target in targets))
    if differs:
        return "arguments", f"it fetches {names_of(differs)}, not proven to hold the same in {version.module}"
    if unclear := next((target.function for target in targets if target.function in version.ambiguous), None):
        return "ambiguous-name", f"{version.module} has several functions {unclear}"
    return None


def _foreign(facts: ProbeFacts) -> list[Report]:
    """Probes inside replaced bodies that were not planted through kprobe_events."""
    rows = []
    for row in facts.foreign():
        found = facts.body_at(row.address)
        if found is None or row.is_return:
            continue
        start, function = found
        if facts.is_entry(Coordinate("", function.object, function.old, function.sympos, row.address - start)):
            continue
        place = f"{row.symbol}+{row.offset:#x}" + (f" [{row.module}]" if row.module else "")
        rows.append(
            Report(
                "not-ours-to-move",
                f"{row.address:#x}",
                place,
                "planted by register_kprobe, perf or BPF: its owner has to plant it again",
            )
        )
    return rows


def _blockers(facts: ProbeFacts) -> list[Report]:
    """A kprobe with a post_handler holds the ftrace location as a livepatch has to (arm_kprobe_ftrace, v6.1)."""
    rows = []
    alone = {row.address for row in facts.foreign()}
    for start, function in facts.bodies:
        for row in facts.planted:
            if row.address - start in ENTRY and "FTRACE" in row.flags and row.address in alone & facts.limited:
                rows.append(
                    Report(
                        "post-handler",
                        f"{row.address:#x}",
                        f"{row.symbol}+{row.offset:#x}",
                        f"a kprobe with a post_handler holds {function.old}, so that no livepatch can redirect it",
                    )
                )
    return rows

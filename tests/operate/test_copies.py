"""Where an event goes whose instruction the new version has several times, or not for sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.binary import Address
from builder.operate.kprobes import Event, ProbeFacts, ProbeSymbols, Spot, Version, plan
from builder.operate.kprobes.plan import Coordinate, ProbePlan
from builder.operate.kprobes.versions import Mapped, ProbedFunction

EVERYTHING = (1 << 17) - 1


def version(rows: Mapping[int, tuple[Mapped, ...]], module: str = "p1") -> Version:
    function = ProbedFunction("work", 64, "vmlinux", "work", 0, 64, True, "", "work", rows)
    return Version(module, (function,))


def planned(spots: Sequence[Spot], rows: dict[int, tuple[Mapped, ...]]) -> ProbePlan:
    events = [Event(False, "b", "e", spot) for spot in spots]
    symbols = ProbeSymbols({("vmlinux", "work"): (Address(0x1000),)})
    return plan(ProbeFacts(events, [], symbols, [version(rows)]))


def two(confidence: int = 100, same: int = EVERYTHING) -> dict[int, tuple[Mapped, ...]]:
    return {8: (Mapped("work", 16, 100, EVERYTHING), Mapped("work", 48, confidence, same))}


def places(found: ProbePlan) -> list[str]:
    return [str(row.event.spot) for row in found.additions]


def test_all_copies_are_planted() -> None:
    found = planned([Spot(None, "work", 8)], two())
    assert places(found) == ["p1:work+16", "p1:work+48"] and found.reports == ()


def test_of_several_copies_all_or_none() -> None:
    """One that is not sure would make the event count too little, or too much."""
    found = planned([Spot(None, "work", 8)], two(confidence=65))
    assert places(found) == [] and [row.code for row in found.reports] == ["uncertain"]
    assert "work+0x10, work+0x30" in found.reports[0].message and "65" in found.reports[0].message


def test_what_an_event_fetches_must_be_the_same_at_all_copies() -> None:
    events = [Event(False, "b", "e", Spot(None, "work", 8), ("%ax",))]
    symbols = ProbeSymbols({("vmlinux", "work"): (Address(0x1000),)})
    found = plan(ProbeFacts(events, [], symbols, [version(two(same=EVERYTHING - 1))]))
    assert found.additions == () and [row.code for row in found.reports] == ["arguments"]


def test_copies_that_stand_already_are_not_planted_again() -> None:
    found = planned([Spot(None, "work", 8), Spot("p1", "work", 16), Spot("p1", "work", 48)], two())
    assert found == ProbePlan((), (), ())


def test_one_copy_alone_does_not_stand_for_the_original() -> None:
    """It counts a part of the runs only; together the copies do."""
    symbols = ProbeSymbols({("vmlinux", "work"): (Address(0x1000),)})
    facts = ProbeFacts([], [], symbols, [version(two())])
    first, second = (Coordinate("p1", "", "work", 0, offset) for offset in (16, 48))
    original = Coordinate("", "vmlinux", "work", 0, 8)
    assert set(facts.everywhere(first, {first})) == {first}
    assert set(facts.everywhere(first, {first, second})) == {first, second, original}

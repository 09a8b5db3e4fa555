"""Where an event goes whose instruction the new version does not have: to its point, which others may stand at too."""

from __future__ import annotations

from dataclasses import replace

from builder.binary import Address
from builder.operate.kprobes import Event, ProbeFacts, ProbeSymbols, Spot, Version, plan
from builder.operate.kprobes.plan import Coordinate, ProbePlan
from builder.operate.kprobes.versions import Mapped
from tests.operate.test_copies import EVERYTHING, places, version

ROWS = {12: (Mapped("work", 20, 100, EVERYTHING),)}
POINTS = {8: (Mapped("work", 20, 80, EVERYTHING),)}
"""What was at 8 has gone: its point is before what was at 12, and is at 20 now."""


def made(module: str = "p1") -> Version:
    (function,) = version(ROWS, module).functions
    return Version(module, (replace(function, points=POINTS),))


def planned(*spots: Spot, versions: tuple[Version, ...] = ()) -> ProbePlan:
    symbols = ProbeSymbols({("vmlinux", "work"): (Address(0x1000),)})
    events = [Event(False, "b", "e", spot) for spot in spots]
    return plan(ProbeFacts(events, [], symbols, versions or (made(),)))


GONE, THERE, IN_NEW = Spot(None, "work", 8), Spot(None, "work", 12), Spot("p1", "work", 20)


def test_an_event_follows_to_its_point() -> None:
    found = planned(GONE)
    assert places(found) == ["p1:work+20"] and found.reports == ()
    assert found.additions[0].confidence == 80
    assert planned(GONE, IN_NEW) == ProbePlan((), (), ())


def test_an_uncertain_pair_gives_way_to_the_point() -> None:
    (function,) = made().functions
    rows = {**ROWS, 8: (Mapped("work", 40, 60, EVERYTHING),)}
    unsure = Version("p1", (replace(function, rows=rows),))
    assert places(planned(GONE, versions=(unsure,))) == ["p1:work+20"]
    assert list(unsure.origins("work", 40)) == []


def test_two_places_of_an_event_with_one_point_are_told() -> None:
    """The kernel plants a place of an event once, so that it would count half."""
    for spots in ((GONE, THERE), (GONE, THERE, IN_NEW)):
        found = planned(*spots)
        assert [row.code for row in found.reports] == ["shared-place"]
        assert places(found) == ([] if IN_NEW in spots else ["p1:work+20"])


def test_the_way_back_from_a_point_leads_to_what_the_event_has() -> None:
    symbols = ProbeSymbols({("vmlinux", "work"): (Address(0x1000),)})
    facts = ProbeFacts([], [], symbols, [made()])
    gone, there = (Coordinate("", "vmlinux", "work", 0, offset) for offset in (8, 12))
    new = Coordinate("p1", "", "work", 0, 20)
    assert set(facts.everywhere(new, {new, gone})) == {new, gone}
    assert set(facts.everywhere(new, {new, there})) == {new, there}
    assert set(facts.everywhere(new, {new})) == {new, there}
    assert set(facts.everywhere(gone, {gone})) == {gone, new}


def test_an_event_at_its_point_goes_to_its_own_place_in_a_next_version() -> None:
    again = version({8: (Mapped("work", 32, 100, EVERYTHING),), 12: (Mapped("work", 36, 100, EVERYTHING),)}, "p2")
    assert places(planned(GONE, IN_NEW, versions=(made(), again))) == ["p2:work+32"]
    assert places(planned(THERE, IN_NEW, versions=(made(), again))) == ["p2:work+36"]

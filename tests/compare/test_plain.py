"""What is plain is what the whole comparison says; what is not plain is left to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary import read_object, tables
from builder.compare import Comparison, compare
from builder.compare.view import View
from tests.compare.conftest import Pair
from tests.conftest import data_root

PAIRS = (
    "corpus/pairs/net__tipc__udp_media",
    "corpus/pairs/drivers__net__ppp__ppp_async",
    "running-6.1.0-50/pairs/net__appletalk__aarp",
    "conformance/x86_64/cold-add",
)
TEXTS = """
extern int say(const char *, ...);
int f(int x) { return say("first") + say(x ? "%s" : "second of them"); }
"""


def pair_of(name: str) -> Comparison:
    place: Path = data_root() / name
    return compare(read_object(place / "orig.o"), read_object(place / "patched.o"))


def agreements(comparison: Comparison) -> Counter[bool | None]:
    """What is said of each relocation of functions with equal bytes, held against the meanings."""
    old, new, meanings = comparison.old, comparison.new, comparison.meanings
    counts: Counter[bool | None] = Counter()
    for b, a in comparison.correlation.twins.items():
        rows = list(zip(old.relocations(a), new.relocations(b), strict=False))
        if old.masked(a.section, a.start, a.end) != new.masked(b.section, b.start, b.end):
            continue
        for r, s in rows:
            if r.type != s.type or r.offset - a.start != s.offset - b.start:
                continue
            said = meanings.plain.agree(a.section, r, s)
            counts[said] += 1
            if said is not None:
                same = meanings.of(old, a, r, lines=False) == meanings.of(new, b, s, lines=False)
                assert said == same, (b.name, r, s)
            assert old.reached(a, r) is old.target(r, old.bias(a, r)).atom
    return counts


@pytest.mark.data
@pytest.mark.parametrize("name", PAIRS)
def test_plain_is_what_the_meanings_say(name: str) -> None:
    counts = agreements(pair_of(name))
    assert counts[True] > 2 * counts[None] and counts[True] > 10


def test_texts_that_moved_and_texts_that_changed(pair: Pair) -> None:
    """A text in front moves the others, which stay the same; one whose end differs is another."""
    moved = pair(TEXTS, 'extern int say(const char *, ...);\nint g(void) { return say("0 in front"); }' + TEXTS)
    assert agreements(moved)[True] and not moved.changed
    other = pair(TEXTS, TEXTS.replace("of them", "of these"))
    assert [atom.name for atom in other.changed] == ["f"]


@pytest.mark.data
@pytest.mark.parametrize("name", PAIRS)
def test_entries_that_are_made_in_bulk(name: str) -> None:
    """They are those that are found one by one, with the same owners."""
    view = View(read_object(data_root() / name / "orig.o"))
    seen = 0
    for row in tables.TABLES:
        for section in view.sections_named(row.name) if row.most == 1 else ():
            found = tables.entries(view.obj, section, row)
            slow = tables.entries(view.obj, section, replace(row, most=2))
            assert [entry[1:] for entry in found] == [entry[1:] for entry in slow]
            assert {e.start: o for o, rows in view.owned(row).items() for e in rows} == {
                e.start: view.owner(e) for e in found
            }
            seen += len(found)
    assert seen

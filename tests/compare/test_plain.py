"""What is plain is what the whole comparison says; what is not plain is left to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary import ObjectFile, read_object, tables
from builder.compare import Comparison, compare
from builder.compare.view import View
from tests.compare.conftest import Pair
from tests.conftest import data_root
from tests.support.compiling import Build

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


def agreements(comparison: Comparison) -> Counter[bool | str | None]:
    """What is said of each relocation of functions with equal bytes, held against the meanings."""
    old, new, meanings = comparison.old, comparison.new, comparison.meanings
    counts: Counter[bool | str | None] = Counter()
    for b, a in comparison.correlation.twins.items():
        rows = list(zip(old.relocations(a), new.relocations(b), strict=False))
        if old.masked(a.section, a.start, a.end) != new.masked(b.section, b.start, b.end):
            continue
        for r, s in rows:
            if r.type != s.type or r.offset - a.start != s.offset - b.start:
                continue
            said = meanings.plain.agree(a.section, r, s)
            counts[said] += 1
            stands = meanings.plain.stand(a.section, [r], [s], b.start - a.start)
            counts["stands"] += stands
            if stands or said is not None:
                same = meanings.of(old, a, r, lines=False) == meanings.of(new, b, s, lines=False)
                assert same if stands else said == same, (b.name, r, s)
            assert old.reached(a, r) is old.target(r, old.bias(a, r)).atom
    return counts


@pytest.mark.data
@pytest.mark.parametrize("name", PAIRS)
def test_plain_is_what_the_meanings_say(name: str) -> None:
    counts = agreements(pair_of(name))
    assert counts[True] > 2 * counts[None] and counts[True] > 10 and counts["stands"] >= counts[True]


def test_texts_that_moved_and_texts_that_changed(pair: Pair) -> None:
    """A text in front moves the others, which stay the same; one whose end differs is another."""
    moved = pair(TEXTS, 'extern int say(const char *, ...);\nint g(void) { return say("0 in front"); }' + TEXTS)
    assert agreements(moved)[True] and not moved.changed
    other = pair(TEXTS, TEXTS.replace("of them", "of these"))
    assert [atom.name for atom in other.changed] == ["f"]


SIDE_BY_SIDE = """
#define SIDE __attribute__((section(".data.side")))
static int SIDE first = 1;
static int SIDE second = 2;
int f(void) { return first++; }
int g(void) { return second++; }
"""


def test_variables_side_by_side(pair: Pair) -> None:
    """Where they change places, equal addends to their section are another variable; where they stay, the same."""
    lines = SIDE_BY_SIDE.split("\n")
    swapped = "\n".join([*lines[:2], lines[3], lines[2], *lines[4:]])
    stay = pair(SIDE_BY_SIDE, SIDE_BY_SIDE + "int h(void) { return 0; }")
    found = agreements(stay)
    assert found["stands"] == found[True] + found[None] and found[None] == 4 and not stay.changed
    assert not pair(SIDE_BY_SIDE, swapped).changed
    crossed = swapped.replace("first++", "second--").replace("second++", "first++").replace("second--", "second++")
    assert [atom.name for atom in pair(SIDE_BY_SIDE, crossed).changed] == ["f", "g"]


SITES = ".text\n.globl f\n.type f,@function\nf: %s\n ud2\n ret\n.size f, .-f\n"
BUGS = '.section __bug_table,"aw"\n.long f%s - .\n.long 0\n.short 7\n.short 0\n'


def test_a_site_among_nops_is_its_own_instruction(build: Build) -> None:
    """Code that only begins with another NOP is the same; an entry for that NOP is another one."""

    def made(nop: str, site: str) -> ObjectFile:
        return build(SITES % nop + BUGS % site, language="assembler")

    at_nop = compare(made("nop", ""), made("nopl 0(%rax)", ""))
    assert [atom.name for atom in at_nop.changed] == ["f"]
    assert not compare(made("nop", ""), made("nop", "")).changed


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

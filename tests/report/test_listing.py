"""Instructions side by side: what is the same, what changed, what is left out."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from builder.compose.outcome import Diff
from builder.pipeline import diff
from builder.report.listing import Listing, Listings, Row
from tests.report.conftest import Diffed, pair_paths

LOOP = """
extern void put(const char *text, int value);
static int total;
int work(int *row, int count)
{
	for (int k = 0; k < count; k++) {
		if (row[k] < 0) {
			put("negative %d\\n", row[k]);
			continue;
		}
		total += row[k];
	}
	return total;
}
"""
CHECKED = LOOP.replace("\tfor (", '\tif (!row)\n\t\tput("no row", 0);\n\tfor (', 1)


def listing_of(found: Diff, name: str, most: int | None = None) -> Listing:
    atom = found.comparison.new.by_name[name]
    return Listings(found.comparison, most).of(atom)


def rows_of(listing: Listing) -> list[Row]:
    return list(chain.from_iterable(stretch.rows for stretch in listing.stretches))


def test_every_instruction_of_both_versions_stands_in_one_row(diffed: Diffed) -> None:
    found = diffed(LOOP, CHECKED)
    comparison = found.comparison
    listing = listing_of(found, "work")
    for view, side in ((comparison.old, "old"), (comparison.new, "new")):
        atom = view.by_name["work"]
        wanted = [i.offset - atom.entry for i in view.instructions(atom) if not i.is_nop]
        lines = [getattr(row, side) for row in rows_of(listing)]
        assert [line.offset for line in lines if line is not None] == wanted
    assert listing.changed + listing.removed + listing.added > 0
    assert listing.left_out == 0


def test_branches_that_only_moved_are_the_same(diffed: Diffed) -> None:
    """The new call shifts all that follows; the branches behind it lead to the same instructions."""
    old = "extern void put(int); void work(int *p) { if (p[0]) put(1); if (p[1]) put(2); if (p[2]) put(3); put(4); }"
    listing = listing_of(diffed(old, old.replace("{ if", "{ put(9); put(0); if")), "work")
    moved = [
        row
        for row in rows_of(listing)
        if row.kind == "same" and row.old and row.new and row.old.text != row.new.text and row.old.text[0] == "j"
    ]
    assert moved, "no branch changed its offset: the example shows nothing"


def test_a_branch_that_leads_elsewhere_is_a_change(diffed: Diffed) -> None:
    old = """
    extern void one(void), two(void);
    void pick(int x)
    {
        asm goto("cmp $3, %0; je %l[first]" :: "r"(x) :: first, second);
        return;
    first:
        one();
        return;
    second:
        two();
    }
    """
    new = old.replace("je %l[first]", "je %l[second]")
    listing = listing_of(diffed(old, new), "pick")
    kinds = [(row.kind, row.old.text.split()[0] if row.old else "") for row in rows_of(listing)]
    assert [kind for kind in kinds if kind[0] != "same"] == [("changed", "je")]


def test_relocations_read_as_names_and_strings(diffed: Diffed) -> None:
    listing = listing_of(diffed(LOOP, CHECKED), "work")
    lines = [row.new for row in rows_of(listing) if row.new]
    assert any(line.text.split() in (["callq", "put"], ["jmp", "put"]) for line in lines)
    assert any(line.note == '"negative %d\\n"' for line in lines)
    assert any(line.note == "total" for line in lines)


def test_source_lines_come_from_the_line_table(diffed: Diffed) -> None:
    plain = rows_of(listing_of(diffed(LOOP, CHECKED), "work"))
    assert not any(line.source for row in plain for line in (row.old, row.new) if line)
    found = diffed(LOOP, CHECKED, "-g")
    listing = listing_of(found, "work")
    first = listing.stretches[0].rows[0]
    assert first.new and first.new.source.startswith("unit.c:")
    assert Listings(found.comparison, None).source(found.comparison.new.by_name["work"]) == "unit.c:5"


def test_a_new_function_has_one_side(diffed: Diffed) -> None:
    source = "extern int g(int); int f(int x) { return g(x) + 1; }"
    added = "extern int g(int); __attribute__((noinline)) static int h(int x) { return g(x) * 3; }"
    found = diffed(source, added + "int f(int x) { return h(x) + 1; }")
    listing = listing_of(found, "h")
    assert not listing.both
    assert all(row.old is None and row.new is not None for row in rows_of(listing))


def long_functions() -> tuple[str, str]:
    body = "".join(f"\tput({k});\n" for k in range(200))
    source = "extern void put(int); void work(void)\n{\n" + body + "}\n"
    return source, source.replace("put(100);", "put(1000);")


def test_unchanged_stretches_are_folded(diffed: Diffed) -> None:
    listing = listing_of(diffed(*long_functions()), "work")
    assert [stretch.folded for stretch in listing.stretches] == [True, False, True]
    assert [row.kind for row in listing.stretches[1].rows].count("changed") == 1
    assert len(listing.stretches[1].rows) == 7
    assert all(row.kind == "same" for stretch in listing.stretches[::2] for row in stretch.rows)


@pytest.mark.parametrize("most", [0, 1, 7, 50, 399])
def test_a_limit_leaves_out_what_is_unchanged_first(diffed: Diffed, most: int) -> None:
    listing = listing_of(diffed(*long_functions()), "work", most)
    shown = rows_of(listing)
    assert len(shown) == most
    assert listing.left_out == listing.rows - most == sum(s.left_out for s in listing.stretches)
    if most >= 7:
        assert any(row.kind == "changed" for row in shown)


@pytest.mark.data
@pytest.mark.parametrize("name", ["net__tipc__udp_media", "fs__fuse__inode", "mm__swapfile"])
def test_a_changed_function_shows_a_change(data: Path, name: str) -> None:
    found = diff(*pair_paths(data, name))
    listings = Listings(found.comparison, None)
    for atom in found.comparison.changed:
        parts = (atom, *found.comparison.children.get(atom, ()))
        rows = [row for part in parts for row in rows_of(listings.of(part))]
        assert any(row.kind != "same" for row in rows), atom.name


@pytest.mark.data
def test_an_unchanged_function_shows_none(data: Path) -> None:
    """The aligner agrees with the comparer on the functions that it calls the same."""
    found = diff(*pair_paths(data, "net__tipc__udp_media"))
    comparison = found.comparison
    listings = Listings(comparison, None)
    same = [a for a, d in comparison.functions.items() if not d.reason and a.section.name.startswith(".text.")]
    assert same
    for atom in same:
        listing = listings.of(atom)
        assert (listing.changed, listing.removed, listing.added) == (0, 0, 0), atom.name

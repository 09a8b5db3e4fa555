"""The campaign's mutations: edits inside function bodies only, of the kind that they say."""

from __future__ import annotations

import pytest

from tests.compare.mutations import KINDS, mutations

SOURCE = """\
#define LIMIT 3
static const int outside = 4; /* 5 */
static int one(struct s *p, int x)
{
\tif (x < 6 && p->first != p->second)
\t\treturn other(x, "with 7 percent %d"); // 8
\treturn kzalloc(x);
}

static int two(struct s *p, int x)
{
#ifdef X == 9
#endif
\treturn one(p, x);
}
"""
EXPECTED = {
    "constant": {("one", "6 -> 7")},
    "comparison": {("one", "< -> <="), ("one", "!= -> ==")},
    "field": {("one", "first -> second"), ("one", "second -> first")},
    "callee": {("one", "kzalloc -> kmalloc")},
    "string": {("one", "p -> q")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_its_places_and_no_others(kind: str) -> None:
    found = mutations(SOURCE, kind, "seed", 100)
    assert {(m.function, m.what) for m in found} == EXPECTED[kind]
    for mutation in found:
        before, after = SOURCE.splitlines(), mutation.text.splitlines()
        assert [k for k, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b] == [mutation.line]


def test_the_seed_decides_the_order() -> None:
    rows = [[m.what for m in mutations(SOURCE, "comparison", str(seed), 1)] for seed in range(20)]
    assert len({tuple(row) for row in rows}) == 2
    assert rows == [[m.what for m in mutations(SOURCE, "comparison", str(seed), 1)] for seed in range(20)]

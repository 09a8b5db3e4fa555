"""Who uses what a header's change is about: too many at worst, never too few."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.names import TreeText, changed_names, items, uses
from tests.conftest import need

HEADER = """/* A comment { with ; signs } */
#ifndef X_H
#define X_H
#include <linux/y.h>
#define ONE 1 /* one */
#define LONG(a) \\
	do_it(a); \\
	do_more(a)
struct s {
	int a; /* } */
};
extern int far(struct s *s);
static inline __must_check int __printf(1, 2) near(struct s *s, int (*f)(int))
{
	char c = '{';
	return s->a + ONE;
}
enum e { A, B };
static const char *const text[] = { "};", "b" };
#endif
"""


def test_a_header_in_pieces() -> None:
    found = items(HEADER)
    assert found is not None
    assert [(item.kind, item.name) for item in found] == [
        ("directive", ""),
        ("define", "X_H"),
        ("directive", ""),
        ("define", "ONE"),
        ("define", "LONG"),
        ("other", ""),
        ("prototype", "far"),
        ("inline", "near"),
        ("other", ""),
        ("other", ""),
        ("directive", ""),
    ]
    near = found[7]
    assert (near.first, near.last) == (13, 17)
    assert (found[4].first, found[4].last) == (6, 8)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("+ ONE", "- ONE", {"near"}),
        ("define ONE 1", "define ONE 2", {"ONE"}),
        ("do_more(a)", "do_less(a)", {"LONG"}),
        ("far(struct s *s)", "far(struct s *s, int b)", {"far"}),
        ("int a; /* } */", "long a;", None),
        ("A, B", "A, B, C", None),
        ("#include <linux/y.h>", "#include <linux/z.h>", None),
        ("/* one */", "/* two */", set()),
        ("enum e", "static inline int extra(void)\n{\n\treturn 2;\n}\nenum e", {"extra"}),
        ('"b"', '"c"', None),
        ("#endif", "#endif\n#if 0\n{\n#endif", None),
    ],
)
def test_the_names_of_a_change(old: str, new: str, names: set[str] | None) -> None:
    assert old in HEADER
    assert changed_names(HEADER, HEADER.replace(old, new)) == names


FILES = {
    "include/x.h": "static inline int leaf(int x)\n{\n\treturn x;\n}\n"
    "static inline int over(int x)\n{\n\treturn leaf(x);\n}\n"
    "#define MACRO(x) over(x)\n#define PASTE(what) do_##what()\n"
    "static inline int do_leaf(void)\n{\n\treturn 1;\n}\n",
    "include/wide.h": "#include <x.h>\nstatic int wide = MACRO(3);\n",
    "include/paste.h": "#define DEEPER(kind) PASTE(kind)\n",
    "fs/direct.c": "int f(void) { return leaf(1); }\n",
    "fs/macro.c": "int f(void) { return MACRO(1); }\n",
    "fs/comment.c": "/* leaf() and over() are not called */\nint f(void) { return 1; }\n",
    "fs/string.c": "int leaflet, overt;\n",
    "fs/pasted.c": "int f(void) { return PASTE(leaf); }\n",
    "fs/deeper.c": "int f(void) { return DEEPER(leaf); }\n",
    "fs/other.c": "int f(void) { return PASTE(twig); }\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    need("grep")
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


SOURCES = [name for name in FILES if name.endswith(".c")]


def test_users_through_inline_functions_and_macros(root: Path) -> None:
    found = uses(TreeText(root), ["leaf"], SOURCES, limit=100)
    assert found.all
    assert {"fs/direct.c", "fs/macro.c"} <= found.sources
    assert not {"fs/comment.c", "fs/string.c"} & found.sources
    assert found.spread == {"include/wide.h"}, "what a header does at its top level concerns all who read it"


def test_pasted_names_are_found(root: Path) -> None:
    found = uses(TreeText(root), ["do_leaf"], SOURCES, limit=100)
    assert found.all
    assert found.sources == {"fs/pasted.c", "fs/deeper.c"}


def test_nearly_everywhere_is_said(root: Path) -> None:
    found = uses(TreeText(root), ["leaf"], SOURCES, limit=1)
    assert not found.all and len(found.sources) > 1


def test_a_name_that_nobody_uses(root: Path) -> None:
    found = uses(TreeText(root), ["nowhere"], SOURCES, limit=100)
    assert found.all and not found.sources and not found.spread

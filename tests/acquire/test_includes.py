"""What a changed header can reach: by name, and by what the preprocessed text says."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire import readers
from builder.acquire.includes import Includes, code_differs
from builder.acquire.source import SourceTree

ATTR = '__attribute__((__gnu_inline__)) __attribute__((__section__("x")))'
BASE = f"""typedef int u32;
struct s {{
 int a;
}};
static inline {ATTR} int used(int x)
{{
 return x + 1;
}}
static inline {ATTR} u32 spare(struct s *s, int (*f)(int))
{{
 if (s) {{
  return f(1);
 }}
 return 2;
}}
int code(int x)
{{
 return used(x);
}}
"""


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("return 2;", "return 3;", False),
        ("return x + 1;", "return x + 2;", True),
        ("u32 spare(struct s *s", "long spare(struct s *t", False),
        ("int a;", "int a, b;", True),
        ("return used(x);", "return used(x) + spare(0, 0);", True),
        ("typedef int u32;", "typedef long u32;", True),
        ("int code(int x)", "static inline int added(int y)\n{\n return y;\n}\nint code(int x)", False),
        ("int code(int x)", "static inline int added(int y)\n{\n return used(y);\n}\nint code(int x)", False),
        ("int code(int x)", "extern int other;\nint code(int x)", True),
        ("", "", False),
    ],
)
def test_unused_inline_functions_make_no_difference(old: str, new: str, differs: bool) -> None:
    assert old in BASE
    text = BASE.replace(old, new) if old else BASE
    assert code_differs(BASE.encode(), text.encode()) is differs
    assert code_differs(text.encode(), BASE.encode()) is differs


def test_an_inline_function_used_by_another_counts_as_used() -> None:
    text = BASE.replace("return x + 1;", "return spare(0, 0);")
    assert code_differs(text.encode(), text.replace("return 2;", "return 3;").encode())


def test_reaching(tree: SourceTree, tmp_path: Path) -> None:
    includes = Includes.of_tree(tree.root, tmp_path / "includes.json")
    assert includes.reaching(["drivers/common.h"]) == {
        "drivers/common.h",
        "drivers/net/deep/bus.h",
        "drivers/net/deep/chip.c",
    }
    assert "fs/read.c" in includes.reaching(["include/linux/queue.h"])
    assert includes.reaching(["fs/part.c"]) == {"fs/part.c", "fs/whole.c"}
    (tree.root / "fs/read.c").write_text("")
    again = Includes.of_tree(tree.root, tmp_path / "includes.json")
    assert "fs/read.c" in again.reaching(["include/linux/queue.h"]), "the saved list is used"


def test_an_include_by_macro_counts(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("#define FILE_TO_READ <linux/x.h>\n#include FILE_TO_READ\n")
    includes = Includes.of_tree(tmp_path, tmp_path / "saved.json")
    assert includes.including("include/linux/x.h") == {"a.c"}


def test_how_many_use_a_change_is_said(tree: SourceTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more users than the limit as many as were found until then, the second time from what was kept."""
    monkeypatch.setattr(readers, "NARROW_ABOVE", 1)
    path = "include/linux/queue.h"
    change = {path: (tree.root / path).read_bytes().replace(b"q->head - q->tail", b"q->tail - q->head")}
    with tree.objects() as objects:
        for _ in range(2):
            (few,) = readers.find_readers([path], change, tree, objects, 1)
            assert few.ended == "at least 2 of them use what is changed in it (queue_len)"
            assert few.asked == set(few.near) and len(few.near) == 3
        (all_of_them,) = readers.find_readers([path], change, tree, objects, 2)
    assert all_of_them.ended == "" and len(all_of_them.asked) == 2

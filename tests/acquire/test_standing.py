"""Whether a tree has a patch's changes already."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from builder.acquire.standing import standing
from tests.conftest import ROOT

OLD = [f"line{number};\n" for number in range(40)]
ADDED = [*OLD[:10], "fresh();\n", *OLD[10:30], "more();\n", *OLD[30:]]
GONE = [*OLD[:10], *OLD[12:]]
OTHER = [line.replace("line", "other") for line in OLD]


def patch(old: list[str], new: list[str], path: str = "fs/x.c", context: int = 3) -> str:
    return "".join(difflib.unified_diff(old, new, f"a/{path}", f"b/{path}", n=context))


@pytest.mark.parametrize(
    ("tree", "texts", "applied", "fits"),
    [
        (OLD, [patch(OLD, ADDED)], False, True),
        (ADDED, [patch(OLD, ADDED)], True, False),
        (["// one more\n", *ADDED], [patch(OLD, ADDED)], True, False),
        (OTHER, [patch(OLD, ADDED)], False, False),
        (GONE, [patch(OLD, GONE)], True, False),
        # One of two hunks is there: neither one nor the other.
        ([*ADDED[:31], *OLD[30:]], [patch(OLD, ADDED)], False, False),
        # A series, each on the one before it; the last state has it, the one in between has not.
        ([*ADDED, "end\n"], [patch(OLD, ADDED), patch(ADDED, [*ADDED, "end\n"])], True, False),
        (ADDED, [patch(OLD, ADDED), patch(ADDED, [*ADDED, "end\n"])], False, False),
        # What is no code decides nothing; what leaves nothing behind tells nothing.
        (ADDED, [patch(OLD, ADDED) + patch(OLD, ADDED, "Documentation/x.rst")], True, False),
        (OTHER, [patch(OLD, GONE, context=0)], False, False),
    ],
)
def test_a_patch_and_a_tree(tmp_path: Path, tree: list[str], texts: list[str], applied: bool, fits: bool) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs/x.c").write_text("".join(tree))
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.patch")
        files[-1].write_text(text)
    found = standing(files, tmp_path)
    assert (found.applied, found.misfit == "" and not found.applied) == (applied, fits)


def test_a_new_header(tmp_path: Path) -> None:
    text = patch(OLD, ADDED) + "--- /dev/null\n+++ b/fs/x.h\n@@ -0,0 +1 @@\n+int fresh(void);\n"
    (tmp_path / "x.patch").write_text(text)
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs/x.c").write_text("".join(ADDED))
    assert not standing([tmp_path / "x.patch"], tmp_path).applied
    (tmp_path / "fs/x.h").write_text("int fresh(void);\n")
    assert standing([tmp_path / "x.patch"], tmp_path).applied


def test_every_sample_taken_back_is_applied(tmp_path: Path) -> None:
    """By the lines that each of them has: a tree of these alone, before and after."""
    for path in sorted((ROOT / "samples/patches").glob("*.patch")):
        for side, applied in ((" -", False), (" +", True)):
            root = tmp_path / f"{path.stem}{applied}"
            name = ""
            for line in path.read_text().partition("\n--- ")[2].splitlines():
                if line.startswith("+++ b/"):
                    name = line[6:]
                elif line.startswith("@@"):
                    assert name
                elif name and line[:1] in side and not line.startswith("---"):
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    with (root / name).open("a") as file:
                        file.write(line[1:] + "\n")
            found = standing([path], root)
            assert found.applied is applied and (found.misfit == ""), (path.name, found)

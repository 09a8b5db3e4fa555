"""Where in the source a function of the symbol table may come from."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from builder.acquire.callers import Wanted, candidates
from builder.acquire.kbuild import Command, ListedObjects
from builder.acquire.source import LISTING, SourceTree
from builder.acquire.tree_state import STATE

FILES = {
    "fs/calls.c": "int other(int x);\nstatic int user(int x)\n{\n\treturn quiet(x);\n}\n",
    "fs/names.c": "/* as in */\nint user(int x);\nint y = 3;\n",
    "fs/macro.c": "SYSCALL_DEFINE1(thing, int, x)\n{\n\treturn ASK(x);\n}\n",
    "fs/module.c": "static int user(int x)\n{\n\treturn quiet(x);\n}\n",
    "include/ask.h": "#define ASK(x) quiet((x) + 1)\n",
    "fs/none.c": "int nothing;\n",
}


class Listed:
    """The objects of such a tree: one for each file, those named so a module's."""

    def linked(self) -> list[tuple[str, str]]:
        return [(f"{path[:-2]}.o", path) for path in FILES if path.endswith(".c")]

    def of_source(self, path: str) -> list[Command]:
        owner = "module" if "module" in path else "vmlinux"
        return [Command(f"{path[:-2]}.o", path, (), (), (owner,))]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceTree:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "tree"
    for path, text in {**FILES, STATE: "", LISTING: ""}.items():
        (root / path).parent.mkdir(exist_ok=True, parents=True)
        (root / path).write_text(text)
    return cast(SourceTree, SimpleNamespace(root=root, place=root, identity="a-tree"))


def found(tree: SourceTree, owner: str, name: str) -> list[str]:
    want = Wanted(owner, name, ("quiet",))
    return [command.source for command in candidates([want], tree, cast(ListedObjects, Listed()), 50)[want]]


@pytest.mark.parametrize("name", ["user", "user.constprop.0.isra.0", "user.cold"])
def test_the_file_that_defines_it_and_has_what_it_calls_comes_first(tree: SourceTree, name: str) -> None:
    assert found(tree, "vmlinux", name) == ["fs/calls.c", "fs/macro.c", "fs/names.c"]


def test_only_objects_of_the_owner(tree: SourceTree) -> None:
    assert found(tree, "module", "user") == ["fs/module.c"]


def test_a_name_that_a_macro_makes_and_a_call_within_one(tree: SourceTree) -> None:
    assert found(tree, "vmlinux", "__do_sys_thing")[0] == "fs/macro.c"
    assert found(tree, "vmlinux", "made_by_whatever") == ["fs/calls.c", "fs/macro.c"]


@pytest.mark.parametrize("record", [STATE, LISTING])
def test_what_was_found_is_kept_while_the_tree_is_the_same(tree: SourceTree, record: str) -> None:
    places = ["fs/calls.c", "fs/macro.c", "fs/names.c"]
    assert found(tree, "vmlinux", "user") == places
    (tree.place / "fs/calls.c").write_text("")  # nobody may do that: it shows who reads the text again
    assert found(tree, "vmlinux", "user") == places
    assert found(tree, "vmlinux", "y") == ["fs/macro.c", "fs/names.c"]
    os.utime(tree.place / record, ns=(1, 1))
    assert found(tree, "vmlinux", "user") == ["fs/names.c"]  # plainly fs/module.c, so no users are looked for

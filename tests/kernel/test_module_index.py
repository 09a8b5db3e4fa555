"""Which module has a function: the index follows the tree, and forgets no module that could not be read once."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary import read_object
from builder.binary.kernel.module_index import ModuleIndex
from builder.binary.writer import write_object
from tests.conftest import lacks
from tests.support.names import HOSTILE


def module(path: Path, *functions: str) -> Path:
    """A module's file that defines these functions."""
    gcc = shutil.which("gcc")
    if gcc is None:
        lacks("not installed: gcc (make setup)")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "".join(f"void {name}(void) {{}}\n" for name in functions)
    subprocess.run([gcc, "-x", "c", "-c", "-", "-o", path], input=source, text=True, check=True)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of two modules."""
    module(tmp_path / "tree/kernel/fs/a-fs.ko", "read", "common")
    module(tmp_path / "tree/kernel/net/b.ko", "send", "common")
    return tmp_path / "tree"


def index(root: Path) -> ModuleIndex:
    return ModuleIndex(root, root.parent / "cache")


def test_modules_by_their_functions(root: Path) -> None:
    found = index(root)
    assert found.modules_with(["common"]) == ["a_fs", "b"]
    assert found.modules_with(["common", "send"]) == ["b"]
    assert found.modules_with(["read", "send"]) == found.modules_with([]) == found.modules_with(["none"]) == []


def test_it_is_made_once_for_what_is_in_the_tree_wherever_the_tree_lies(root: Path) -> None:
    index(root)
    (store,) = (root.parent / "cache").iterdir()
    made = store.stat().st_mtime_ns
    index(root)
    root = root.rename(root.with_name("elsewhere"))
    (root / "modules.dep").write_text("")
    assert index(root).modules_with(["send"]) == ["b"]
    found = [path for path in store.parent.iterdir() if path.suffix != ".read"]  # that it was read through
    assert [(path, path.stat().st_mtime_ns) for path in found] == [(store, made)]


def test_it_follows_the_tree_below_its_top(root: Path) -> None:
    """What changes in a folder leaves the time of the tree's top folder as it is."""
    assert index(root).modules_with(["added"]) == []
    before = root.stat().st_mtime_ns
    module(root / "kernel/net/c.ko", "added")
    assert index(root).modules_with(["added"]) == ["c"]
    module(root / "kernel/net/c.ko", "other")
    found = index(root)
    assert (found.modules_with(["added"]), found.modules_with(["other"])) == ([], ["c"])
    (root / "kernel/fs/a-fs.ko").unlink()
    assert index(root).modules_with(["common"]) == ["b"]
    assert root.stat().st_mtime_ns == before


def test_an_unreadable_module_is_said_and_tried_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = root / "kernel/net/b.ko"
    good, state = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(good))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with caplog.at_level(logging.WARNING, logger="bespoke"):
        for _ in range(2):
            caplog.clear()
            assert index(root).modules_with(["common"]) == ["a_fs"]
            assert caplog.messages == [f"a module is not looked at: {path}: no ELF file, no module"]
        caplog.clear()
        path.write_bytes(good)  # the same size and time: only another try can tell
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert index(root).modules_with(["common"]) == ["a_fs", "b"]
        assert index(root).modules_with(["send"]) == ["b"]
        assert caplog.messages == []


def test_a_link_to_nothing_is_an_unreadable_module(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "kernel/net/lost.ko").symlink_to("nowhere.ko")
    with caplog.at_level(logging.WARNING, logger="bespoke"):
        assert index(root).modules_with(["send"]) == ["b"]
    (said,) = caplog.messages
    assert "lost.ko: cannot be read: No such file" in said


def test_names_of_all_kinds(root: Path) -> None:
    """Of functions, of modules and of those that cannot be read; not all of them are UTF-8."""
    names = [name for name in HOSTILE if "/" not in name]
    obj = read_object(root / "kernel/net/b.ko")
    function = next(s for s in obj.symbols if s.name == "send")
    made = [function._replace(name=name) for name in names]
    raw = os.fsencode(root / "kernel")
    for name in names[:40]:
        Path(os.fsdecode(raw + b"/bad" + os.fsencode(name) + b".ko")).write_bytes(b"x")
    changed = replace(obj, symbols=(*obj.symbols, *made))
    Path(os.fsdecode(raw + b"/odd\xff.ko")).write_bytes(write_object(changed))
    for _ in range(2):
        found = index(root)
        assert [found.modules_with([name]) for name in names] == [["odd\udcff"]] * len(names)

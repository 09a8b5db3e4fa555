"""A tree of modules is walked once, and again as soon as anything in it has come, gone or changed its name."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.acquire import sums
from builder.binary.kernel.places import module_places

WALK = os.walk


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each walk that was made; and what was changed in this instant counts as settled."""
    rows: list[object] = []

    def walk(top: Any, **options: Any) -> Iterator[Any]:
        rows.append(top)
        return WALK(top, **options)

    monkeypatch.setattr(os, "walk", walk)
    monkeypatch.setattr(sums, "SETTLED", 0)
    return rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("kernel/fs/b.ko", "kernel/a-x.ko.xz", "updates/z.ko", "kernel/note.txt", "source/no.ko"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return tmp_path / "tree"


EXPECTED = [("updates/z.ko", "z"), ("kernel/a-x.ko.xz", "a_x"), ("kernel/fs/b.ko", "b")]
CHANGES: dict[str, Callable[[Path], object]] = {
    "a file": lambda root: (root / "kernel/fs/new.ko").write_text(""),
    "a file in another's place": lambda root: (root / "kernel/fs/b.ko").rename(root / "kernel/fs/c.ko"),
    "a file that is gone": lambda root: (root / "updates/z.ko").unlink(),
    "a folder": lambda root: shutil.copytree(root / "updates", root / "extra"),
    "a folder that is gone": lambda root: shutil.rmtree(root / "kernel/fs"),
    "a tree in another's place": lambda root: shutil.move(shutil.copytree(root / "kernel", root / "old"), root / "top"),
}


def read(root: Path) -> list[tuple[str, str]]:
    time.sleep(0.02)  # the clock by which files are marked ticks in steps of some milliseconds
    return list(module_places(root, root.parent / "kept"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_walk_is_remembered_until_something_changes(root: Path, walked: list[object], change: str) -> None:
    assert read(root) == read(root) == read(root) == EXPECTED == list(module_places(root))
    assert walked == [root, root], "the first, and that without a place to keep it"
    folders = [path for path in root.rglob("*") if path.is_dir()]
    times = {path: path.stat() for path in [root, *folders]}
    CHANGES[change](root)
    for path, state in times.items():  # as an archive leaves them
        if path.exists():
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = read(root)
    assert found == list(module_places(root)) and found != EXPECTED
    assert len(walked) == 4


def test_what_has_just_changed_is_not_relied_upon(
    root: Path, walked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change in the same tick of the clock would leave the same time."""
    monkeypatch.setattr(sums, "SETTLED", 10**10)
    assert read(root) == read(root) == EXPECTED and len(walked) == 2


def test_another_tree_and_a_damaged_record_are_read_anew(root: Path, walked: list[object]) -> None:
    read(root)
    other = root.with_name("other")
    shutil.copytree(root / "kernel", other / "kernel")
    assert read(other) == EXPECTED[1:]
    kept = root.parent / "kept/places.json"
    assert json.loads(kept.read_text())
    kept.write_text(kept.read_text().replace("kernel", "lernel"))
    assert read(other) == EXPECTED[1:] and len(walked) == 3

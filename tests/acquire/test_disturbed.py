"""Patches to a tree that somebody else has changed: what is made of it is that of the tree as it was left."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from builder.acquire import tree_state
from builder.acquire.patch import PatchObjects, prepare_patch
from builder.acquire.source import SourceTree
from builder.acquire.tree_state import TreeWatch, disturbed, keep_state
from tests.acquire.conftest import FILES
from tests.acquire.test_patch import replaced

FIRST = replaced("fs/read.c", "queue_full(q) +", "queue_full(q) + 1 +")
OTHER = replaced("fs/write.c", "- LOCAL", "- 2 * LOCAL")
HEADER = replaced("fs/local.h", "LOCAL 3", "LOCAL 4")
CHANGES: dict[str, tuple[str, str | None]] = {
    "what the patch changes": ("fs/read.c", FILES["fs/read.c"].replace("read_it", "other_it")),
    "what its file includes": ("fs/local.h", "#define LOCAL 999\n#include <linux/queue.h>\n"),
    "what all include": ("include/linux/kconfig.h", "#define if while\n"),
    "a file that is gone": ("fs/local.h", None),
}


class Watched:
    """A tree, and how often it was looked at as a whole and made anew."""

    def __init__(self, tree: SourceTree) -> None:
        (tree.place / ".bespoke/prepared.json").write_text("{}")
        self.tree = tree
        self.looks = self.made = 0
        keep_state(tree.place)

    def again(self) -> None:
        self.made += 1
        for name, text in FILES.items():
            (self.tree.place / name).write_text(text)
        keep_state(self.tree.place)

    def patched(self, *patches: str) -> PatchObjects:
        """As by a process of its own, which has not looked at the tree yet."""
        files = [self.tree.place.with_name(f"{number}.patch") for number in range(len(patches))]
        for file, text in zip(files, patches, strict=True):
            file.write_text(text)
        return prepare_patch(files, replace(self.tree, watch=TreeWatch(self.tree.place, self.again)))


@pytest.fixture
def watched(tree: SourceTree, monkeypatch: pytest.MonkeyPatch) -> Watched:
    found = Watched(tree)

    def look(root: Path) -> list[str]:
        found.looks += 1
        return disturbed(root)

    monkeypatch.setattr(tree_state, "disturbed", look)
    return found


def made(found: PatchObjects) -> list[tuple[str, bytes, bytes]]:
    return [(pair.path, pair.old.read_bytes(), pair.new.read_bytes()) for pair in found.pairs]


@pytest.mark.parametrize("patch", [FIRST, HEADER], ids=["source", "header"])
def test_what_was_made_before_looks_at_no_more_than_it_reads(watched: Watched, patch: str) -> None:
    watched.patched(patch)  # generates what is missing, after which the state is another
    first = made(watched.patched(patch))
    watched.looks = 0
    assert made(watched.patched(patch)) == first and first
    assert (watched.looks, watched.made) == (0, 0)
    made(watched.patched(OTHER))
    assert watched.looks == 1


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", [True, False], ids=["made before", "new"])
def test_nothing_is_made_of_what_was_changed(
    watched: Watched, change: str, before: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    wanted = made(watched.patched(FIRST))
    kept = tree_state._said_of((watched.tree.place / tree_state.STATE).read_bytes(), "fs/read.c")
    assert kept is not None and wanted
    if not before:
        monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "another"))
    name, text = CHANGES[change]
    path = watched.tree.place / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with caplog.at_level(logging.INFO, logger="bespoke"):
        assert made(watched.patched(FIRST)) == wanted
    # What was compiled when all was well is as good as before; what has to be read is made anew first.
    read = not before or change == "what the patch changes"
    assert watched.made == int(read), [record.getMessage() for record in caplog.records]
    assert made(watched.patched(OTHER)) != wanted and watched.made == 1
    assert path.read_text() == FILES[name]

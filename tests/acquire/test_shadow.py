"""The shadow is the tree with other files in it, and tells when the tree's own were read."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.shadow import Shadow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("a/x.h", "a/b/y.h", "a/b/c/z.c", "d/e.c", "top"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def made(root: Path, changed: dict[str, bytes | None]) -> Shadow:
    place = root.parent / "shadow"
    place.mkdir()
    return Shadow(root, place, changed)


def test_only_the_way_to_a_changed_file_is_real(root: Path) -> None:
    shadow = made(root, {"a/b/y.h": b"new"})
    place = shadow.place
    assert (place / "a/b/y.h").read_bytes() == b"new" and not (place / "a/b/y.h").is_symlink()
    assert (place / "a/b").is_dir() and not (place / "a/b").is_symlink()
    assert (place / "d").is_symlink() and (place / "a/b/c").is_symlink()
    assert (place / "a/x.h").read_text() == "a/x.h"
    assert (root / "a/b/y.h").read_text() == "a/b/y.h"


def test_files_may_be_added_and_taken_away(root: Path) -> None:
    shadow = made(root, {"a/x.h": None, "n/new.h": b"n"})
    assert not (shadow.place / "a/x.h").exists()
    assert (shadow.place / "n/new.h").read_bytes() == b"n"
    assert not (root / "n").exists()


def test_the_way_around_a_link_is_an_escape_until_followed(root: Path) -> None:
    shadow = made(root, {"a/x.h": b"new"})
    around = "a/b/../x.h"
    assert (shadow.place / around).read_text() == "a/x.h"
    assert shadow.escapes([around, "a/x.h", "d/e.c"]) == [around]
    shadow.follow([around])
    assert (shadow.place / around).read_bytes() == b"new"
    assert shadow.escapes([around]) == []


def test_what_the_tree_gains_is_taken_in(root: Path) -> None:
    shadow = made(root, {"a/x.h": b"new"})
    (root / "a/generated.h").write_text("g")
    assert not (shadow.place / "a/generated.h").exists()
    shadow.refresh()
    assert (shadow.place / "a/generated.h").read_text() == "g"
    assert (shadow.place / "a/x.h").read_bytes() == b"new"

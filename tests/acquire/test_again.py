"""What was made before is found at once, and what stands between the runs is told as before."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.acquire import kbuild, tree_state
from builder.acquire.compile import Compiling
from builder.acquire.tree_state import DisturbedError, TreeWatch, keep_state
from tests.acquire.test_patch import Edit, patched, replaced

__all__ = ["patched"]  # a fixture


def test_of_what_was_made_before_nothing_waits_for_a_thread(patched: Edit) -> None:
    """Only what is really compiled is told, however many objects the patches change."""
    fixes = [replaced("fs/made.c", "TABLE;", "TABLE + 1;"), replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2")]
    told: list[tuple[int, int, str]] = []
    how = Compiling(progress=lambda *row: told.append(row))
    first = patched(*fixes[:1], how=how)
    assert {what for *_, what in told} == {"compile old fs/made.o", "compile new fs/made.o"}
    told.clear()
    whole = patched(*fixes, how=how)
    assert {what for *_, what in told} == {"compile old fs/read.o", "compile new fs/read.o"}
    assert [(done, count) for done, count, _ in told] == [(1, 2), (2, 2)]
    assert whole.pairs[: len(first.pairs)] == first.pairs
    told.clear()
    assert patched(*fixes, how=how).pairs == whole.pairs and told == []


def test_an_object_that_is_damaged_is_compiled_again(patched: Edit, caplog: pytest.LogCaptureFixture) -> None:
    fixes = [replaced("fs/made.c", "TABLE;", "TABLE + 1;"), replaced("fs/read.c", "+ LOCAL", "+ LOCAL * 2")]
    pairs = patched(*fixes).pairs
    contents = [(pair.old.read_bytes(), pair.new.read_bytes()) for pair in pairs]
    for side in ("old", "new"):
        damaged: Path = getattr(pairs[0], side)
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
        caplog.clear()
        again = patched(*fixes)
        assert "damaged" in caplog.text
        assert [(pair.old.read_bytes(), pair.new.read_bytes()) for pair in again.pairs] == contents


@given(st.text(st.sampled_from("ab \t\n\r\f\x0b\x85\\'\"#$")))
def test_words_are_those_of_a_shell(text: str) -> None:
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        with pytest.raises(ValueError):
            kbuild._words(text)
    else:
        assert kbuild._words(text) == words


def test_what_a_state_says_of_a_file_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again of another state, and where what was kept of it is damaged."""
    monkeypatch.setattr("builder.acquire.sums.SETTLED", 0)
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "tree"
    (root / ".bespoke").mkdir(parents=True)
    names = ("one.c", "other.c")
    for name in names:
        (root / name).write_text("text")
    keep_state(root)
    read: list[str] = []
    said_of = tree_state._said_of

    def asked(listed: bytes, name: str) -> str | None:
        read.append(name)
        return said_of(listed, name)

    monkeypatch.setattr(tree_state, "_said_of", asked)

    def looked(*names: str) -> list[str]:
        """As by a process of its own: what is read of the state."""
        tree_state._asked.cache_clear()
        read.clear()
        watch = TreeWatch(root, lambda: None)
        with watch.used():
            for name in names:
                watch.file(name)
        return read[:]

    assert looked("one.c") == ["one.c"] and looked("one.c", "one.c") == []
    assert looked("absent.c", *names) == ["absent.c", "other.c"] and looked("absent.c", *names) == []
    (root / "one.c").write_text("another")
    with pytest.raises(DisturbedError, match=r"one\.c"):
        looked("one.c")
    (root / "absent.c").write_text("new")
    keep_state(root)
    assert looked("one.c", "absent.c") == ["one.c", "absent.c"] and looked("one.c", "absent.c") == []
    (root / "absent.c").unlink()
    with pytest.raises(DisturbedError, match=r"absent\.c"):
        looked("absent.c")
    (root / "absent.c").write_text("new")
    place = root / tree_state._ASKED
    keep_state(root)
    assert looked("one.c") == ["one.c"]
    place.write_bytes(place.read_bytes()[:-5])
    assert looked("one.c") == ["one.c"] and looked("one.c") == []

"""Changes of structures are found once for the same two objects, and are the same when they are found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.binary import ObjectFile
from builder.compare import compare, structs
from builder.compare.kept_structs import kept_struct_changes
from tests.support.compiling import Build

HEAD = "struct s {{ int a; {} int b; }};\nint f(struct s *s) {{ return s->b + {}; }}\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/maps/structs"


def pair(build: Build, field: str, *flags: str) -> tuple[ObjectFile, ObjectFile]:
    return build(HEAD.format("", 1), *flags), build(HEAD.format(field, 2), *flags)


@pytest.mark.parametrize("field", ["", "long c;"])
def test_what_is_found_again_is_what_was_found(
    build: Build, field: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, others = pair(build, field, "-g"), pair(build, field, "-g", "-O1")
    found = kept_struct_changes(compare(*objects), frozenset())
    assert [change.name for change in found] == (["struct s"] if field else [])
    assert len(list(cache.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(structs, "struct_changes", lambda *_: pytest.fail("looked for again"))
        assert kept_struct_changes(compare(*objects), frozenset()) == found
    # Another object, or another question, is looked for anew.
    kept_struct_changes(compare(*others), frozenset())
    kept_struct_changes(compare(*objects), frozenset({"f"}))
    assert len(list(cache.iterdir())) == 3


def test_without_debug_information_nothing_is_kept(build: Build, cache: Path) -> None:
    assert kept_struct_changes(compare(*pair(build, "long c;")), frozenset()) == ()
    assert not cache.exists()

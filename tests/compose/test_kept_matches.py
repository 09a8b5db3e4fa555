"""What runs is held against an old object once, and the same is found again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.acquire import sums
from builder.binary import read_object
from builder.compare import View
from builder.compose.kept_matches import KeptMatcher
from builder.compose.owner import Objects
from builder.compose.running import Running
from builder.compose.runpre import Match, Matcher, Mismatch
from tests.running.pairs import RELEASE, places
from tests.support.kernels import opened

pytestmark = [pytest.mark.data, pytest.mark.kernel]

OWNERS = {"drivers__net__gtp": "gtp", "mm__secretmem": "vmlinux", "net__rds__connection": "rds"}

Found = Mapping[str, tuple[list[Match], list[Mismatch]]]


@pytest.fixture(scope="module")
def objects() -> Objects:
    return Objects(opened(RELEASE))


@pytest.fixture
def cache(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path))
    return tmp_path / "maps/matches"


def _old(data: Path, pair: str) -> View:
    return View(read_object(places(data)[pair] / "orig.o"))


def _all(matcher: Matcher) -> Found:
    return {atom.name: matcher.all_of(atom) for atom in matcher.view.functions}


@pytest.mark.parametrize("pair", OWNERS)
def test_what_is_found_again_is_what_was_found(
    pair: str, data: Path, cache: Path, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, running = _old(data, pair), objects.get(OWNERS[pair])
    made = _all(Matcher(view, running))
    assert any(matches for matches, _ in made.values())
    first = KeptMatcher(view, running)
    assert _all(first) == made
    first.keep()
    monkeypatch.setattr(Matcher, "match", lambda *_, **__: pytest.fail("held against it again"))
    found = _all(KeptMatcher(view, running))
    assert found == made
    for name, (matches, _) in found.items():
        for match, before in zip(matches, made[name][0], strict=True):
            assert list(match.solved) == list(before.solved), "their order tells which is asked first"


def test_other_code_has_its_own(data: Path, cache: Path, objects: Objects) -> None:
    view = _old(data, "drivers__net__gtp")
    for owner in ("gtp", "vmlinux", "rds"):
        running: Running = objects.get(owner)
        matcher = KeptMatcher(view, running)
        assert _all(matcher) == _all(Matcher(view, running))
        matcher.keep()
    assert len(list(cache.iterdir())) == 3


def test_what_is_damaged_is_found_anew(
    data: Path, cache: Path, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    view, running = _old(data, "mm__secretmem"), objects.get("vmlinux")
    matcher = KeptMatcher(view, running)
    made = _all(matcher)
    matcher.keep()
    (file,) = cache.iterdir()
    known = sums.read_json(file)
    broken = {name: [[[0, 0, "x", [[1 << 40, 1]], {}, []]], []] for name in known}
    for damage in (broken, dict.fromkeys(known, 3), ["something else"], None):
        if damage is None:
            file.write_bytes(file.read_bytes()[:50])
        else:
            sums.write_json(file, damage)
        caplog.clear()
        again = KeptMatcher(view, running)
        assert _all(again) == made
        assert "damaged" in caplog.text or isinstance(damage, list)
        again.keep()
        assert sums.read_json(file) == known

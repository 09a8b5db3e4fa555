"""Instruction maps are made once for the same two objects, and are the same when they are found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.binary import read_object
from builder.compare import Comparison, compare, contents, kept_maps
from builder.compare.instruction_map import MappedRow, instruction_map
from builder.compare.kept_maps import kept_map
from tests.conftest import data_root

pytestmark = pytest.mark.data
PAIR = "running-6.1.0-50/pairs/drivers__net__gtp"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path))
    return tmp_path / "maps/all"


def compared(new: str = "patched.o") -> Comparison:
    place = data_root() / PAIR
    return compare(read_object(place / "orig.o"), read_object(place / new))


def test_what_is_found_again_is_what_was_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared()
    changed = {atom.name: kept_map(comparison, atom) for atom in comparison.changed}
    assert changed and changed == {atom.name: instruction_map(comparison, atom) for atom in comparison.changed}
    files = sorted(cache.iterdir())
    assert files
    again = compared()
    monkeypatch.setattr(kept_maps, "instruction_map", lambda *_: pytest.fail("made again"))
    large = [atom for atom in again.changed if atom.size > 1000]
    assert large
    for atom in large:
        found = kept_map(again, atom)
        assert found.pairs and all(row.new_part.name.startswith(atom.name.split(".")[0]) for row in found.pairs)
        assert _plain(found.pairs) == _plain(changed[atom.name].pairs)
        assert _plain(found.points) == _plain(changed[atom.name].points)
    assert sorted(cache.iterdir()) == files


def test_another_object_or_program_has_maps_of_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(comparison: Comparison) -> int:
        for atom in comparison.new.functions[:40]:
            kept_map(comparison, atom)
        return len(list(cache.iterdir()))

    first = make(compared())
    assert first == make(compared())
    second = make(compared("orig.o"))
    assert second > first
    monkeypatch.setattr(contents, "program", lambda: "another")
    assert make(compared("orig.o")) == second + (second - first)


def test_a_damaged_one_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    comparison = compared()
    (atom,) = [atom for atom in comparison.changed if atom.size > 1000][:1]
    made = kept_map(comparison, atom)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
    assert kept_map(comparison, atom) == made and "damaged" in caplog.text
    caplog.clear()
    assert kept_map(comparison, atom) == made and caplog.text == ""


def _plain(rows: tuple[MappedRow, ...]) -> list[tuple[object, ...]]:
    return [(row.old_part.name, row.old_offset, row.new_part.name, *row[3:]) for row in rows]

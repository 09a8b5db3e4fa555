"""Instruction maps are made once for the same two objects, and are the same when they are found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire import sums
from builder.binary import read_object
from builder.compare import Comparison, compare, contents
from builder.compare.instruction_map import MappedRow, instruction_map
from builder.compare.kept_maps import kept_maps
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
    changed = {atom.name: row for atom, row in kept_maps(comparison, comparison.changed).items()}
    assert changed and changed == {atom.name: instruction_map(comparison, atom) for atom in comparison.changed}
    files = sorted(cache.iterdir())
    assert files
    again = compared()
    monkeypatch.setattr("builder.compare.instruction_map._function_map", lambda *_: pytest.fail("made again"))
    large = [atom for atom in again.changed if atom.size > 1000]
    assert large
    for atom, found in kept_maps(again, large).items():
        assert found.pairs and all(row.new_part.name.startswith(atom.name.split(".")[0]) for row in found.pairs)
        assert _plain(found.pairs) == _plain(changed[atom.name].pairs)
        assert _plain(found.points) == _plain(changed[atom.name].points)
    assert sorted(cache.iterdir()) == files


def test_another_object_or_program_has_maps_of_its_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(comparison: Comparison) -> int:
        kept_maps(comparison, comparison.new.functions[:20])
        assert len(kept_maps(comparison, comparison.new.functions[:40])) > 30
        return len(list(cache.iterdir()))

    assert make(compared()) == make(compared()) == 1
    assert make(compared("orig.o")) == 2
    monkeypatch.setattr(contents, "program", lambda: "another")
    assert make(compared("orig.o")) == 3


def test_those_of_more_functions_join_those_that_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared()
    first, *rest = [atom for atom in comparison.changed if atom.size > 100]
    kept_maps(comparison, [first])
    kept_maps(compared(), [atom for atom in compared().changed if atom.name == first.name])
    again = compared()
    every = [again.new.by_name[atom.name] for atom in (first, *rest)]
    kept_maps(again, every)
    monkeypatch.setattr("builder.compare.instruction_map._function_map", lambda *_: pytest.fail("made again"))
    last = compared()
    assert len(kept_maps(last, [last.new.by_name[atom.name] for atom in every])) == len(every) > 1


def test_a_damaged_one_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    comparison = compared()
    (atom,) = [atom for atom in comparison.changed if atom.size > 1000][:1]
    made = kept_maps(comparison, [atom])
    (file,) = cache.iterdir()
    for damage in (file.read_bytes().replace(b"1", b"2", 1), b"", None):
        if damage is None:
            known = sums.read_json(file)
            sums.write_json(file, {name: [[[9, 9, 9, 9, 9, 9]], []] for name in known})
        else:
            file.write_bytes(damage)
        comparison.maps.clear()
        assert kept_maps(comparison, [atom]) == made and "damaged" in caplog.text
        caplog.clear()
        comparison.maps.clear()
        assert kept_maps(comparison, [atom]) == made and caplog.text == ""


def _plain(rows: tuple[MappedRow, ...]) -> list[tuple[object, ...]]:
    return [(row.old_part.name, row.old_offset, row.new_part.name, *row[3:]) for row in rows]

"""Diffs are made once for the same two objects, and are the same when they are found again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from builder import pipeline
from builder.acquire import sums
from builder.acquire.patchfile import read_patch
from builder.acquire.shifts import Shift, shifts_of
from builder.compose import kept_diffs
from builder.compose.kept_diffs import written
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.errors import Allowed
from builder.pipeline import ModulePlan, build, diff, diff_again
from tests.conftest import data_root
from tests.running.pairs import RELEASE, places
from tests.support.kernels import opened

FEW = (
    "corpus/pairs/arch__x86__kernel__alternative",
    "corpus/pairs/drivers__net__ppp__ppp_async",
    "corpus/pairs/net__can__isotp",
    "running-6.1.0-50/pairs/drivers__net__gtp",
    "running-6.1.0-50/pairs/mm__secretmem",
)
"""With table entries, data in the way, line numbers, a static local, and several refusals."""
REST = sorted(
    place
    for kind in ("conformance/x86_64", "corpus/pairs", "running-6.1.0-50/pairs")
    for path in (data_root() / kind).glob("*/orig.o")
    if (place := f"{kind}/{path.parent.name}") not in FEW
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/maps/diffs"


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, who compares two objects fails."""
    return lambda: monkeypatch.setattr(pipeline, "diff_objects", lambda *_, **__: pytest.fail("made again"))


def _shifts(place: Path) -> tuple[Shift, ...]:
    return shifts_of(read_patch(place / "source.diff")) if (place / "source.diff").exists() else ()


def _of(name: str, **how: Any) -> Diff:
    place = data_root() / name
    return diff_again(place / "orig.o", place / "patched.o", **how)


@pytest.mark.data
@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.long) for name in REST)])
def test_what_is_found_again_is_what_was_made(name: str, once: Callable[[], None]) -> None:
    place = data_root() / name
    for shifts in ((), _shifts(place)):
        made = diff(place / "orig.o", place / "patched.o", shifts=shifts)
        first = _of(name, shifts=shifts)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(pipeline, "diff_objects", lambda *_, **__: pytest.fail("made again"))
            found = _of(name, shifts=shifts)
        assert found.as_json() == made.as_json()
        assert written(found) == written(made) == written(first)
        assert found.judged == made.judged
        assert _told(found) == _told(made)


def _told(found: Diff) -> Mapping[str, object]:
    """What later steps take of a diff, in words, in its order."""
    selection, comparison = found.selection, found.comparison
    return {
        "references": [(str(place), target.name, target.place) for place, target in selection.all_references],
        "entries": {atom.name: entries for atom, entries in selection.entries.items()},
        "pieces": selection.pieces,
        "macros": str(selection.macros),
        "twins": [(new.name, old.name, old.start) for new, old in comparison.correlation.twins.items()],
        "versions": [(old.name, new.name) for old, new in comparison.correlation.versions.items()],
        "verdicts": [(atom.name, row) for atom, row in (*comparison.functions.items(), *comparison.data.items())],
        "shifts": comparison.shifts,
    }


@pytest.mark.data
@pytest.mark.kernel
@pytest.mark.parametrize("name", ["drivers__net__gtp", "mm__secretmem"])
def test_a_module_of_a_kept_diff_is_the_same(
    name: str, once: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places(data_root())[name]
    files = place / "orig.o", place / "patched.o"
    diff_again(*files)
    made = diff(*files)
    once()
    found = diff_again(*files)
    monkeypatch.delenv("BESPOKE_CACHE")  # the kernel's facts are where all find them
    objects = Objects(opened(RELEASE))
    first, second = (build([row], objects, ModulePlan("fix")) for row in (made, found))
    assert first is not None and second is not None and first.content == second.content


@pytest.mark.data
def test_a_damaged_one_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = _of(FEW[0])
    (file,) = cache.iterdir()
    for damage in (
        lambda: file.write_bytes(file.read_bytes().replace(b"1", b"2", 1)),
        lambda: file.write_bytes(file.read_bytes()[:1000]),
        lambda: file.write_bytes(b""),
        lambda: _altered(file, lambda value: value.update(twins=[[0, 1 << 40]])),
        lambda: _altered(file, lambda value: value.update(atoms=[1, 1])),
        lambda: _altered(file, lambda value: value.update(refusals=[["no-such-code", "", "", "", "", True]])),
        lambda: _altered(file, lambda value: value.pop("selected")),
        lambda: sums.write_json(file, ["something else"]),
    ):
        damage()
        caplog.clear()
        assert written(_of(FEW[0])) == written(made) and "damaged" in caplog.text
        caplog.clear()
        assert written(_of(FEW[0])) == written(made) and caplog.text == ""


def _altered(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = sums.read_json(file)
    change(value)
    sums.write_json(file, value)


@pytest.mark.data
def test_one_of_another_pair_is_not_believed(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    _of(FEW[1])
    (other,) = cache.iterdir()
    made = _of(FEW[0])
    (file,) = set(cache.iterdir()) - {other}
    shutil.copy(other, file)
    assert written(_of(FEW[0])) == written(made) and "damaged" in caplog.text


@pytest.mark.data
def test_another_program_and_what_is_allowed_have_their_own(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = _of(FEW[1])
    accepted = _of(FEW[1], allowed=Allowed.parse(["data-changed:*"]))
    assert refused.judged.refusals and not accepted.judged.refusals
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(kept_diffs, "program", lambda *_: "another")
    _of(FEW[1])
    assert len(list(cache.iterdir())) == 3


@pytest.mark.data
def test_files_of_another_name_are_told_of_by_that(tmp_path: Path) -> None:
    """A pair without debug information, of which a warning names the new object."""
    _of("running-6.1.0-50/pairs/mm__secretmem")
    sides = tmp_path / "old.o", tmp_path / "new.o"
    for side, name in zip(sides, ("orig.o", "patched.o"), strict=True):
        shutil.copyfile(data_root() / "running-6.1.0-50/pairs/mm__secretmem" / name, side)
    assert "new.o" in {row.symbol for row in diff_again(*sides).judged.warnings}
    assert diff_again(*sides).as_json() == diff(*sides).as_json()


@pytest.mark.data
def test_a_pair_under_another_path_is_the_same(tmp_path: Path, once: Callable[[], None]) -> None:
    place = data_root() / FEW[3]
    _of(FEW[3])
    once()
    old, new = (Path(shutil.copy(place / name, tmp_path)) for name in ("orig.o", "patched.o"))
    found = diff_again(old, new)
    assert (found.old, found.new) == (str(old), str(new))


SOURCE = r"""extern void _printk(const char *, ...);
int f(int x) { _printk("%s:%d\n", __func__, __LINE__); return x; }"""
"""A line, said by nothing but the source patch where there is no debug information."""


def _pair(compiled: Callable[..., Any], place: Path, *texts: str) -> tuple[Path, Path]:
    old, new = (shutil.copy(compiled(text).name, place / f"{number}.o") for number, text in enumerate(texts))
    return Path(old), Path(new)


def test_the_source_patch_counts_by_what_it_is_asked(
    compiled: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = _pair(compiled, tmp_path, SOURCE, "\n\n" + SOURCE)
    name = next(s.name for s in pipeline.read_pair(old, new)[0].symbols if s.name.endswith(".c"))
    moved, elsewhere = Shift(name, ((1, 0, 1, 2),)), Shift("mm/other.c", ((1, 0, 1, 2),))
    writes = Shift("mm/other.c", ((9, 1, 9, 1),), edited=_lines(old, new, moved))
    made = 0
    whole = pipeline.diff_objects

    def counted(*pair: Any, **how: Any) -> Diff:
        nonlocal made
        made += 1
        return whole(*pair, **how)

    monkeypatch.setattr(pipeline, "diff_objects", counted)

    def kind(*shifts: Shift) -> str:
        found = diff_again(old, new, shifts=shifts)
        assert written(found) == written(whole(*pipeline.read_pair(old, new), shifts=shifts))
        return next(kind for kind, names in found.functions.items() if "f" in names)

    assert kind(moved) == kind(moved, elsewhere) == kind(elsewhere, moved) == "line_only"
    assert made == 1, "of the fixes that joined it nothing was asked"
    assert kind(elsewhere) == "changed" and made == 2
    assert kind(moved, writes) == "changed"
    assert kind(moved) == "line_only" and made == 3
    kind()
    assert made == 4


def _lines(old: Path, new: Path, moved: Shift) -> tuple[frozenset[int], frozenset[int]]:
    """The two numbers, as a patch has them that writes the one in place of the other."""
    (line,) = diff(old, new, shifts=[moved]).comparison.asked
    return frozenset({line.old}), frozenset({line.new})


def test_what_cannot_be_written_is_no_failure(compiled: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    pair = _pair(compiled, tmp_path, SOURCE, SOURCE)
    cache.parent.mkdir(parents=True)
    cache.write_text("no directory")
    assert diff_again(*pair).verdict == "unchanged"

"""What a pair brings to a module is made once for the same pair, kernel, request and program; then it is found."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from builder import pipeline
from builder.acquire import sums
from builder.acquire.pairs import ObjectPair
from builder.acquire.patch import PatchObjects
from builder.acquire.shifts import Shift
from builder.acquire.source import SourceTree
from builder.compare.contents import texts
from builder.compare.lines import AskedLine
from builder.compose import kept_diffs
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.cumulative import joined
from builder.emit import kept_parts
from builder.emit.kept_parts import KeptPart, PairNames, PartPlace
from builder.emit.patched import Patched
from builder.errors import NOTHING, Allowed
from builder.pipeline import ModulePlan
from tests.running.pairs import RELEASE, places
from tests.support.kernels import opened

pytestmark = [pytest.mark.data, pytest.mark.kernel]

OWNERS: Final = {"mm__secretmem": "vmlinux", "drivers__net__gtp": "gtp", "net__rds__connection": "rds"}
COMPILER: Final = "a compiler"
PLAN: Final = ModulePlan("fix")
TREE: Final = cast(SourceTree, SimpleNamespace(compiler=SimpleNamespace(version=COMPILER, packages=())))

Asked = list[str]
_LOOKED: Final[Asked] = []


@pytest.fixture(scope="module")
def objects() -> Objects:
    return Objects(opened(RELEASE))


@pytest.fixture
def cache(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/maps/parts"


@pytest.fixture
def looked() -> Asked:
    """The pairs that are looked into."""
    _LOOKED.clear()
    return _LOOKED


@pytest.fixture
def pairs(data: Path, tmp_path: Path) -> list[ObjectPair]:
    """Files of our own, which a test may change."""
    rows = []
    for name, owner in OWNERS.items():
        place = Path(shutil.copytree(places(data)[name], tmp_path / name, copy_function=shutil.copyfile))
        rows.append(ObjectPair(f"{name}.o", owner, place / "orig.o", place / "patched.o"))
    return rows


def _found(pairs: Sequence[ObjectPair], *shifts: Shift) -> PatchObjects:
    return PatchObjects(TREE, (), shifts, len(pairs), tuple(pairs), (), Path("log"))


def _together(found: PatchObjects, objects: Objects, plan: ModulePlan) -> Patched | None:
    def compare(pair: ObjectPair) -> Diff:
        _LOOKED.append(pair.old.parent.name)
        return pipeline.diff_again(pair.old, pair.new, shifts=found.shifts, allowed=plan.allowed)

    return joined(found, objects, plan, compare, partial(pipeline.running_parts, objects=objects, allowed=plan.allowed))


def _joined(pairs: Sequence[ObjectPair], objects: Objects, plan: ModulePlan = PLAN, *shifts: Shift) -> Patched:
    made = _together(_found(pairs, *shifts), objects, plan)
    assert made is not None
    return made


def _place(pair: ObjectPair, objects: Objects, allowed: Allowed = NOTHING, *shifts: Shift) -> PartPlace:
    return PartPlace(pair.old, pair.new, pair.owner, shifts, allowed, objects)


def test_a_module_of_kept_parts_is_that_of_all_pairs(
    pairs: list[ObjectPair], objects: Objects, cache: Path, looked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in range(1, len(pairs) + 1):
        some = pairs[:count]
        looked.clear()
        made = _joined(some, objects)
        assert looked == [list(OWNERS)[count - 1]], "but the one that joined them"
        diffs = [pipeline.diff(pair.old, pair.new) for pair in some]
        plan = replace(PLAN, compiler=(COMPILER,))
        whole = pipeline.build(diffs, objects, plan, inside=[pair.owner for pair in some])
        assert whole is not None and made.module is not None
        assert made.module.content == whole.content and made.module.manifest == whole.manifest
        as_it_runs = pipeline.running_parts(diffs, [pair.owner for pair in some], objects).diffs
        assert made.documents == [diff.as_json() for diff in as_it_runs]
        assert made.warnings == tuple(dict.fromkeys(w for diff in as_it_runs for w in diff.judged.warnings))
    # In another order, and with nothing that reads an object.
    monkeypatch.setattr(kept_diffs, "read_object", lambda *_, **__: pytest.fail("read"))
    again = _joined(pairs[::-1], objects)
    assert again.module is not None and made.module is not None
    assert [row.object for row in again.module.manifest.functions[:1]] == ["rds"]
    assert sorted(row.name for row in again.module.manifest.functions) == sorted(
        row.name for row in made.module.manifest.functions
    )
    monkeypatch.undo()
    assert [diff.verdict for diff in again.diffs] == ["changed"] * 3, "for who asks for more"


@pytest.mark.parametrize("settled", [sums.SETTLED, 0], ids=["changed just now", "digests known"])
def test_another_byte_of_an_object_makes_it_anew(
    pairs: list[ObjectPair],
    objects: Objects,
    cache: Path,
    looked: Asked,
    settled: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sums, "SETTLED", settled)
    _joined(pairs, objects)
    looked.clear()
    _joined(pairs, objects)
    assert looked == []
    for path in (pairs[0].old, pairs[1].new):
        content = path.read_bytes()
        assert content.count(b"GCC: (") >= 1
        path.write_bytes(content.replace(b"GCC: (", b"GCC: [", 1))
    looked.clear()
    _joined(pairs, objects)
    assert looked == ["mm__secretmem", "drivers__net__gtp"]


def test_another_program_makes_it_anew(
    pairs: list[ObjectPair], objects: Objects, cache: Path, looked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joined(pairs, objects)
    monkeypatch.setattr(kept_parts, "program", lambda *_: "another")
    looked.clear()
    _joined(pairs, objects)
    assert looked == list(OWNERS)


def test_the_program_is_all_that_makes_a_part() -> None:
    told = {path.name for path in texts(*kept_parts.MAKERS)}
    assert {"cumulative.py", "carry.py", "part.py", "thunks.py", "kept_parts.py", "view.py"} <= told


def test_another_request_makes_it_anew(pairs: list[ObjectPair], objects: Objects, cache: Path, looked: Asked) -> None:
    _joined(pairs, objects)
    looked.clear()
    _joined(pairs, objects, replace(PLAN, name="other", replace=True))
    assert looked == [], "the same parts"
    _joined(pairs, objects, replace(PLAN, allowed=Allowed.parse(["data-changed:*"])))
    assert looked == list(OWNERS)
    looked.clear()
    _joined(pairs, objects, PLAN, Shift("mm/other.c", ((1, 0, 1, 2),)))
    assert looked == list(OWNERS), "a source patch says where lines are"
    moved = [replace(pairs[0], new=Path(shutil.copy(pairs[0].new, pairs[0].new.with_name("x.o")))), *pairs[1:]]
    looked.clear()
    _joined(moved, objects)
    assert looked == ["mm__secretmem"], "a warning tells of a file by its name"
    assert _together(_found(pairs), objects, replace(PLAN, on=Path("below.ko"))) is None
    assert _together(_found(pairs), objects, replace(PLAN, allowed=Allowed.parse([], ["x"]))) is None


def test_another_kernel_makes_it_anew(pairs: list[ObjectPair], objects: Objects, cache: Path) -> None:
    _joined(pairs, objects)
    assert _place(pairs[0], objects).find(0) is not None
    other = copy.copy(objects.kernel)
    other.sha256 = "0" * 64
    assert _place(pairs[0], Objects(other)).find(0) is None
    assert _place(replace(pairs[0], owner="gtp"), objects).find(0) is None


def test_another_file_of_the_module_makes_it_anew(
    pairs: list[ObjectPair], objects: Objects, cache: Path, tmp_path: Path
) -> None:
    """The one that is patched, and those that it depends on, whatever they are called and wherever they lie."""
    _joined(pairs, objects)
    for name, asked in (("gtp", pairs[1]), ("udp_tunnel", pairs[1])):
        there = objects.kernel.find_module(name)
        assert there is not None
        copied = Path(shutil.copy(there, tmp_path / f"{name}-copy.ko"))
        given = Objects(objects.kernel, {name: copied})
        assert _place(asked, given).find(0) is not None and _place(pairs[0], given).find(0) is not None
        copied.write_bytes(copied.read_bytes() + b"\0")
        assert _place(asked, given).find(0) is None
        assert _place(pairs[0], given).find(0) is not None, "of vmlinux, which no module has a say in"


def test_the_source_patch_counts_by_what_it_is_asked(pairs: list[ObjectPair], objects: Objects, cache: Path) -> None:
    moved, other = Shift("mm/secretmem.c", ((1, 0, 1, 2),)), Shift("mm/other.c", ((1, 0, 1, 3),))
    _joined(pairs[:1], objects, PLAN, moved)
    (file,) = cache.iterdir()
    for name in ("mm/secretmem.c", None):
        asked = (AskedLine(name, 40, 42), True), (AskedLine(name, 40, 43), False)
        _altered(file, partial(_ask, asked))
        assert _place(pairs[0], objects, NOTHING, moved).find(0) is not None
        assert _place(pairs[0], objects, NOTHING, other, moved).find(0) is not None
        assert _place(pairs[0], objects, NOTHING, other).find(0) is None
        writes = replace(other, edited=(frozenset({40}), frozenset({42})))
        assert _place(pairs[0], objects, NOTHING, moved, writes).find(0) is None


def test_pairs_that_have_to_do_with_each_other_are_looked_at_together(
    pairs: list[ObjectPair], objects: Objects, cache: Path
) -> None:
    _joined(pairs, objects)
    file = _place(pairs[0], objects)._file
    _altered(file, partial(_name, brings=frozenset({"a_new_one"})))
    _joined(pairs, objects)
    other = _place(pairs[2], objects)._file
    _altered(other, partial(_name, takes=frozenset({"a_new_one"})))
    assert _together(_found(pairs), objects, PLAN) is None
    assert _together(_found(pairs[1:]), objects, PLAN) is not None


def test_parts_without_effect_are_no_module(pairs: list[ObjectPair], objects: Objects, cache: Path) -> None:
    _joined(pairs[:2], objects)
    _altered(_place(pairs[0], objects)._file, _without_effect)
    _joined(pairs[:2], objects)
    assert _together(_found(pairs[:1]), objects, PLAN) is None


def test_a_name_that_another_owner_has_makes_it_anew(
    pairs: list[ObjectPair], objects: Objects, cache: Path, looked: Asked
) -> None:
    kept = KeptPart(None, {}, (), PairNames(frozenset(), frozenset()), {"gtp_newlink": "gtp_newlink"})
    assert kept.fits(objects, ["vmlinux", "rds"]) and not kept.fits(objects, ["vmlinux", "gtp"])
    _joined(pairs[:1], objects)
    (file,) = cache.iterdir()
    _altered(file, lambda row: _keep(row, symbols={"gtp_newlink": "gtp_newlink"}))
    looked.clear()
    _joined(pairs[:1], objects)
    assert looked == []
    _joined(pairs[:2], objects)
    assert looked == ["drivers__net__gtp", "mm__secretmem"]


def test_a_damaged_one_is_made_again(
    pairs: list[ObjectPair], objects: Objects, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = _joined(pairs[:1], objects)
    (file,) = cache.iterdir()
    damages: list[Callable[[], object]] = [
        lambda: file.write_bytes(file.read_bytes().replace(b"1", b"2", 1)),
        lambda: file.write_bytes(b""),
        lambda: _altered(file, lambda row: row.__setitem__(0, "something else")),
        lambda: _altered(file, lambda row: row.pop()),
        lambda: _altered(file, lambda row: row.__setitem__(2, "no part")),
        lambda: sums.keep_bytes(file, (sums.read_bytes(file) or b"")[:-100]),
        lambda: sums.keep_bytes(file, pickle.dumps(["", Calls(), Calls()])),
    ]
    for damage in damages:
        damage()
        caplog.clear()
        again = _joined(pairs[:1], objects)
        assert again.module == first.module and "damaged" in caplog.text
        caplog.clear()
        assert _joined(pairs[:1], objects).module == first.module and caplog.text == ""


class Calls:
    """What no kept part holds: to read it calls something."""

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return _never, ()


def _never() -> None:
    pytest.fail("a file was taken at its word")


def _ask(asked: tuple[tuple[AskedLine, bool], ...], row: list[Any]) -> None:
    row[1] = row[1]._replace(asked=asked)


def _keep(row: list[Any], **values: object) -> None:
    row[2] = replace(row[2], **values)


def _name(row: list[Any], **values: object) -> None:
    _keep(row, names=row[2].names._replace(**values))


def _without_effect(row: list[Any]) -> None:
    _keep(row, part=replace(row[2].part, redirected=()))


def _altered(file: Path, change: Callable[[list[Any]], object]) -> None:
    """Write again what is kept, a key, a proof and a part, as `change` leaves them."""
    row = kept_parts._Reader(BytesIO(sums.read_bytes(file) or b""), 7).load()
    fragments = row[2].part.fragments
    change(row)
    written = BytesIO()
    kept_parts._Writer(written, {fragment.key: number for number, fragment in enumerate(fragments)}).dump(row)
    sums.keep_bytes(file, written.getvalue())

"""A module built on an earlier one of ours, or to take its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.arch.x86_64 import X86_64
from builder.binary import elf, ours
from builder.binary.kernel import Kernel
from builder.compose.below import Earlier
from builder.compose.owner import Objects
from builder.emit import Module
from builder.emit.glue import GlueFunction, GlueObject, GlueParts, assemble
from builder.errors import Allowed, BespokeError, InputError, RefusedError
from builder.pipeline import ModulePlan, build, diff
from tests.conftest import lacks
from tests.running.pairs import RELEASE, places

pytestmark = [pytest.mark.data, pytest.mark.kernel]


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    try:
        return Kernel.open(fetch_kernel(RELEASE).image)
    except BespokeError as error:
        lacks(str(error))


@pytest.fixture(scope="module")
def objects(data: Path) -> tuple[Path, Path]:
    """A pair that brings no variable of its own."""
    place = places(data)["fs__hugetlbfs__inode"]
    return place / "orig.o", place / "patched.o"


@pytest.fixture(scope="module")
def first(kernel: Kernel, objects: tuple[Path, Path]) -> Module:
    module = build([diff(*objects)], Objects(kernel), ModulePlan("first"))
    assert module is not None
    return module


@pytest.fixture
def path(first: Module, tmp_path: Path) -> Path:
    """V1.ko"""
    place = tmp_path / "first.ko"
    place.write_bytes(first.content)
    return place


def test_a_module_without_variables_has_no_state_to_lose(path: Path) -> None:
    """The byte behind its parameter `hold` is the glue's: each module of ours has its own."""
    assert Earlier.read(path).state == []


def test_it_is_replaced_without_being_asked(kernel: Kernel, objects: tuple[Path, Path], path: Path) -> None:
    module = build([diff(*objects)], Objects(kernel), ModulePlan("second", on=path, replace=True))
    assert module is not None and module.manifest.replace and module.manifest.on == ()
    assert module.manifest.accepted == ()


def test_what_is_accepted_is_told_once(kernel: Kernel, data: Path, tmp_path: Path) -> None:
    """Also where the module is of several pairs."""
    old, new = (places(data)["drivers__net__gtp"] / name for name in ("orig.o", "patched.o"))
    first = build([diff(old, new)], Objects(kernel), ModulePlan("first"))
    assert first is not None
    place = tmp_path / "first.ko"
    place.write_bytes(first.content)
    others = [places(data)[name] for name in ("fs__hugetlbfs__inode", "drivers__net__gtp")]
    pairs = [diff(folder / "orig.o", folder / "patched.o") for folder in others]
    with pytest.raises(RefusedError) as caught:
        build(pairs, Objects(kernel), ModulePlan("second", on=place, replace=True))
    (lost,) = caught.value.refusals
    assert (lost.code, lost.symbol) == ("replace-loses-state", "gtp_pdp_lock")
    allowed = Allowed.parse(["replace-loses-state:gtp_pdp_lock"])
    module = build(pairs, Objects(kernel), ModulePlan("second", on=place, replace=True, allowed=allowed))
    assert module is not None and [(n.code, n.symbol) for n in module.manifest.accepted] == [(lost.code, lost.symbol)]


def test_it_is_stacked_on(kernel: Kernel, objects: tuple[Path, Path], path: Path, tmp_path: Path) -> None:
    """From its version to the original: what stands below is what the map begins at."""
    old, new = objects
    module = build([diff(new, old)], Objects(kernel), ModulePlan("second", on=path))
    assert module is not None and module.manifest.on == ("first",)
    assert {row.since for row in module.manifest.redirected} == {"first"}
    place = tmp_path / "second.ko"
    place.write_bytes(module.content)
    assert Earlier.read(place).chain == ("second", "first")


def test_what_is_no_module_of_ours_is_refused_by_name(data: Path) -> None:
    place = places(data)["fs__hugetlbfs__inode"] / "orig.o"
    with pytest.raises(InputError, match=r"orig\.o: is no livepatch of ours to build on: it has no manifest"):
        Earlier.read(place)


def test_every_symbol_of_the_glue_is_known_as_one(kernel: Kernel) -> None:
    """The template writes no name that the list lacks, and the list has none that it does not write.

    Also where the first object has no callback of its own and the second has one.
    """
    own = [GlueFunction("f", 0, "new_f")]
    rows = [GlueObject(None, own), GlueObject("ext4", own, {"pre_patch": "new_callback"}, ["new_at_exit"])]
    made = assemble(kernel, X86_64.glue, GlueParts("x", rows))
    names = {s.name for s in made.symbols if s.is_defined and s.name and s.type != elf.STT_SECTION}
    names = {name for name in names if not name.startswith(".L")}
    assert names == {
        *(ours.PATCH, ours.HOLD, ours.THIS_MODULE, ours.INIT, ours.EXIT),
        *(ours.PRE_PATCH, f"{ours.PRE_PATCH}_1"),
    }
    assert "new_at_exit" in {s.name for s in made.symbols if not s.is_defined}  # called when the module is taken out
    assert all(map(ours.is_glue, names))
    assert not any(map(ours.is_glue, ("new_f", "bespoke_patch_2", "bespoke_hold.0", "bespoke", "my_init_module")))

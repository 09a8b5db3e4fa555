"""The target sample holds what it is there to show, for each kernel: else the tests of what is built from it
would pass for want of a difficulty."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.cache import cache_root
from builder.acquire.outside import ModuleSource, prepare_module
from builder.binary.objects import ObjectFile
from builder.binary.reader import read_object
from builder.errors import InputError
from builder.pipeline import diff
from samples.objects import TARGET, TARGET_NAME, TargetObjects, apply_patch, target_objects

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

CHANGED = {"rise", "fall", "voice", "weigh", "run", "peek", "hear", "show", "obey"}


@pytest.fixture(scope="module")
def built(release: str) -> TargetObjects:
    return target_objects(release)


@pytest.fixture(scope="module", params=["old", "new"])
def made(built: TargetObjects, request: pytest.FixtureRequest) -> ObjectFile:
    return read_object(built.old if request.param == "old" else built.new)


def owners(made: ObjectFile, table: str) -> set[str]:
    """The functions that the relocations of a special section point into."""
    section = made.by_name.get(table)
    if section is None:
        return set()
    texts = {
        made.sections[made.symbols[r.symbol].shndx].name if made.symbols[r.symbol].is_defined else ""
        for r in made.relocations_of(section.index)
    }
    return {text.removeprefix(".text.unlikely.").removeprefix(".text.") for text in texts}


def test_functions_stand_in_sections_of_their_own(made: ObjectFile) -> None:
    functions = {symbol.name for symbol in made.symbols if symbol.is_function}
    assert {"tick", "mode_name", "open", *CHANGED} <= functions
    assert {f".text.{name}" for name in CHANGED} <= set(made.by_name)


def test_it_is_the_same_in_every_cache(built: TargetObjects) -> None:
    """Nothing in it is of the place where it was compiled: not what its build ID is made of either."""
    for path in (built.module, built.old, built.new):
        assert str(cache_root()).encode() not in path.read_bytes()


def test_what_the_next_version_changes_is_looked_at_here(built: TargetObjects) -> None:
    assert set(diff(built.old, built.new).changed) == CHANGED


def test_two_static_locals_have_one_name(made: ObjectFile) -> None:
    assert len([s for s in made.symbols if s.name.split(".")[0] == "calls"]) == 2


@pytest.mark.parametrize(
    ("table", "functions"),
    [
        ("__jump_table", {"voice"}),
        ("__ex_table", {"peek", "hear"}),
        ("__bug_table", {"obey"}),
        (".altinstructions", {"hear"}),
        (".static_call_sites", {"run"}),
        (".retpoline_sites", {"run", "obey"}),
        (".return_sites", CHANGED),
        (".orc_unwind_ip", CHANGED),
        (".smp_locks", {"tick", "obey"}),
    ],
)
def test_table_has_entries_of(made: ObjectFile, table: str, functions: set[str]) -> None:
    assert functions - owners(made, table) == set()


def test_paravirt_is_called_by_a_changed_function(made: ObjectFile, release: str) -> None:
    assert "rise" in owners(made, ".parainstructions" if release.startswith("6.1.") else ".altinstructions")


def test_labels_are_a_table_of_addresses_within_the_function(made: ObjectFile) -> None:
    table = next(s for s in made.sections if s.name.endswith("c_jump_table"))
    targets = [r.addend for r in made.relocations_of(table.index)]
    assert len(set(targets)) == 4 and owners(made, table.name) == {"run"}


def test_the_layout_of_the_labels_does_not_change(built: TargetObjects) -> None:
    old, new = read_object(built.old), read_object(built.new)
    rows = []
    for made in (old, new):
        table = next(s for s in made.sections if s.name.endswith("c_jump_table"))
        rows.append([(r.offset, r.addend) for r in made.relocations_of(table.index)])
    assert rows[0] == rows[1]
    assert old.by_name[".text.run"].data != new.by_name[".text.run"].data


def test_the_switch_is_a_jump_table_where_the_kernel_can_have_one(made: ObjectFile, release: str) -> None:
    assert ("weigh" in owners(made, ".rodata.weigh")) == release.startswith("6.1.")


def test_the_key_is_the_kernels_or_in_the_variant_its_own(release: str) -> None:
    for own_key in (False, True):
        made = read_object(target_objects(release, own_key=own_key).new)
        table = made.by_name["__jump_table"]
        keys = {
            (made.symbols[r.symbol].is_defined, made.symbols[r.symbol].name)
            for r in made.relocations_of(table.index)
            if r.offset % 16 == 8
        }
        assert (keys == {(False, "bpf_stats_enabled_key")}) == (not own_key)
        assert all(defined for defined, _ in keys) == own_key


def test_the_module_is_the_old_object(built: TargetObjects) -> None:
    old, module = read_object(built.old), read_object(built.module)
    for section in old.sections:
        if section.is_exec and section.size:
            assert module.by_name[section.name].data == section.data, section.name


def test_no_object_says_where_it_was_made(built: TargetObjects) -> None:
    for path in (built.old, built.new, built.module):
        assert str(path.parent.parent).encode() not in path.read_bytes()


def test_a_patch_that_does_not_fit_is_an_error(built: TargetObjects, tmp_path: Path) -> None:
    (tmp_path / "bespoke_target.c").write_text("something else\n")
    patch = Path(__file__).parents[2] / "samples/target/next-version.patch"
    with pytest.raises(InputError, match="fit"):
        apply_patch(patch, tmp_path)
    assert (tmp_path / "bespoke_target.c").read_text() == "something else\n"


@pytest.mark.long
def test_a_module_of_another_suites_kernel(release_7: str) -> None:
    """Compiled by that kernel's compiler, for the guest and as a source patch; its tools run by their own loader."""
    module = target_objects(release_7).module
    source = ModuleSource.of(TARGET, [TARGET_NAME], release_7)
    assert [word.partition("=")[0] for word in source.variables] == ["CC", "LD"] and "toolsets" in source.variables[0]
    (pair,) = prepare_module([TARGET / "next-version.patch"], source).pairs
    assert pair.path == "bespoke_target.o" and pair.owner == TARGET_NAME
    assert f"vermagic={release_7} ".encode() in module.read_bytes()

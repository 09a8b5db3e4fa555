"""Livepatches in the simulated kernel: old and new side by side, objects that come and go, every byte restored."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.binary import Address
from builder.binary.kernel import read_module_bytes
from builder.errors import LoadError, UnknownSymbolError
from builder.image.kept import Livepatch, PatchedFunction, PatchedObject
from builder.image.simulated import SimulatedKernel
from builder.load import livepatch
from builder.load.loader import load_module, load_with_dependencies, unload_module
from samples.simulated import seq_file
from tests.support.kernels import differences, snapshot

pytestmark = pytest.mark.kernel


def test_a_patched_function_runs_the_new_code_until_it_is_disabled(
    simulated: SimulatedKernel, patches: Mapping[str, Path]
) -> None:
    file, text = seq_file(simulated)
    before = simulated.memory.read(simulated.symbols.find_function("cmdline_proc_show"), 16)
    module = load_module(simulated, patches["guest_patch_vmlinux"])
    patch = livepatch.run_init(simulated, module)
    assert [(o.name, [f.name for f in o.functions]) for o in patch.objects] == [(None, ["cmdline_proc_show"])]
    simulated.call("cmdline_proc_show", file, 0)
    assert simulated.memory.string(text) == "patched command line\n"
    simulated.memory.write(text, bytes(64))
    simulated.memory.write_u64(file + simulated.kernel.layout("seq_file").offset_of("count"), 0)
    command_line = simulated.symbols.find_function("saved_command_line")
    simulated.memory.write_u64(command_line, simulated.execution.heap.put(b"quiet\0"))
    both = livepatch.side_by_side(simulated, patch.objects[0].functions[0], file, 0, watch=(text, 32))
    assert both.old_bytes.rstrip(b"\0") == b"quiet\n"
    assert both.new_bytes.rstrip(b"\0") == b"patched command line\n"
    assert both.old.int32 == both.new.int32 == 0
    assert simulated.memory.read(text, 8) == bytes(8)
    simulated.memory.write_u64(command_line, 0)
    with pytest.raises(LoadError, match="enabled"):
        unload_module(simulated, module.name)
    livepatch.disable_patch(simulated, module.name)
    assert simulated.memory.read(simulated.symbols.find_function("cmdline_proc_show"), 16) == before
    unload_module(simulated, module.name)


def test_an_object_may_be_loaded_after_its_livepatch(simulated: SimulatedKernel, patches: Mapping[str, Path]) -> None:
    module = load_module(simulated, patches["guest_patch"])
    livepatch.run_init(simulated, module)
    assert simulated.redirections == {}
    for _ in range(2):
        load_module(simulated, patches["guest_target"])
        assert [r.stack[-1].name for r in simulated.redirections.values()] == ["target_get"]
        unload_module(simulated, "guest_target")
        assert simulated.redirections == {}


def test_the_newest_of_several_versions_runs(simulated: SimulatedKernel, patches: Mapping[str, Path]) -> None:
    old, first, second = (simulated.symbols.find_function(name) for name in ("lcm", "gcd", "int_sqrt"))

    def patch(name: str, new: Address, replace: bool = False) -> None:
        function = PatchedFunction("lcm", 0, new)
        objects = [PatchedObject(None, [function])]
        livepatch.enable_patch(simulated, Livepatch(name, objects, replace))

    assert simulated.call(old, 144, 12).value == 144
    patch("one", first)
    assert simulated.call(old, 144, 12).value == 12
    patch("two", second)
    assert simulated.call(old, 400, 12).value == 20
    livepatch.disable_patch(simulated, "one")
    assert simulated.call(old, 400, 12).value == 20
    patch("three", first, replace=True)
    assert simulated.call(old, 144, 16).value == 16
    assert [p.module for p in simulated.livepatches if p.enabled] == ["three"]
    livepatch.disable_patch(simulated, "three")
    assert simulated.call(old, 144, 12).value == 144
    simulated.livepatches.clear()
    assert patches


def test_a_replacing_patch_gives_back_what_it_does_not_patch(simulated: SimulatedKernel) -> None:
    lcm, gcd, root = (simulated.symbols.find_function(name) for name in ("lcm", "gcd", "int_sqrt"))

    def objects(name: str, new: Address) -> list[PatchedObject]:
        return [PatchedObject(None, [PatchedFunction(name, 0, new)])]

    livepatch.enable_patch(simulated, Livepatch("one", objects("lcm", root), replace=False))
    assert simulated.call(lcm, 144, 12).value == 12
    livepatch.enable_patch(simulated, Livepatch("two", objects("gcd", root), replace=True))
    assert simulated.call(lcm, 36, 5).value == 36 // 6 * 5, "lcm() itself again, by what gcd() now says"
    assert simulated.call(gcd, 144, 7).value == 12
    assert {r.old for r in simulated.redirections.values()} == {gcd}


@pytest.mark.parametrize(
    ("name", "sympos", "words"),
    [
        ("no_such_function", 0, "not found in symbol table"),
        ("lcm", 2, "symbol position 2"),
        ("jhash", 0, "unresolvable ambiguity"),
        ("__x86_return_thunk", 0, "failed to find location"),
    ],
)
def test_what_the_kernel_refuses_to_enable(simulated: SimulatedKernel, name: str, sympos: int, words: str) -> None:
    if name == "jhash" and len(simulated.kernel.symbols_named(name)) < 2:
        pytest.skip("there is only one jhash in this kernel")
    new = simulated.symbols.find_function("gcd")
    good, bad = PatchedFunction("lcm", 0, new), PatchedFunction(name, sympos, new)
    patch = Livepatch("bad", [PatchedObject(None, [good, bad])], replace=False)
    with pytest.raises(LoadError, match=words):
        livepatch.enable_patch(simulated, patch)
    assert simulated.redirections == {}


TREE = (
    "loop", "tun", "dm_mod", "dm_crypt", "btrfs", "zram", "8021q", "guest_patch_vmlinux", "guest_patch", "guest_target",
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(TREE)), max_size=10))
def test_unload_after_load_restores_every_byte(
    simulated: SimulatedKernel, patches: Mapping[str, Path], steps: list[tuple[bool, str]]
) -> None:
    before = snapshot(simulated)
    for load, name in steps:
        try:
            if not load:
                if any(patch.module == name and patch.enabled for patch in simulated.livepatches):
                    livepatch.disable_patch(simulated, name)
                unload_module(simulated, name)
                continue
            path = patches.get(name) or simulated.kernel.find_module(name)
            if path is not None and name not in simulated.modules:
                loaded = load_with_dependencies(simulated, path)
                if loaded.file.is_livepatch:
                    livepatch.run_init(simulated, loaded)
        except LoadError as error:
            assert "not loaded" in str(error) or "in use" in str(error) or "nonzero" in str(error), error
    livepatch.unload_all(simulated)
    assert simulated.modules == {}
    assert simulated.symbols.exported == {}
    assert differences(before, snapshot(simulated)) == []


def test_symbols_that_nothing_exports_are_an_error_of_their_own(
    simulated: SimulatedKernel, patches: Mapping[str, Path]
) -> None:
    module = read_module_bytes(patches["guest_patch_vmlinux"]).replace(b"klp_enable_patch\0", b"klp_enable_other\0")
    with pytest.raises(UnknownSymbolError, match=r"Unknown symbol klp_enable_other \(err -2\)") as caught:
        load_module(simulated, module)
    assert (caught.value.symbols, caught.value.errno) == (("klp_enable_other",), errno.ENOENT)
    assert simulated.modules == {}

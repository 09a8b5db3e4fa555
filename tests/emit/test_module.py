"""The modules of all fixes for the running kernel: the same bytes each time, and true in what they say."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from builder.arch import by_machine
from builder.binary import ObjectFile, elf, read_object, write_object
from builder.binary.kernel import Kernel
from builder.binary.manifest import SECTION, Manifest
from builder.emit import Module
from builder.emit.readback import ReadbackError, verify
from builder.errors import InputError
from builder.preflight.check import Checker
from tests.conftest import ROOT, data_root, need
from tests.emit.edits import klp_sections, renamed, with_data
from tests.running.pairs import ACCEPTED, RELEASE, built, module_name, places
from tests.support.kernels import opened

pytestmark = [pytest.mark.data, pytest.mark.kernel]

NEVER = {"drivers__net__ppp__ppp_async", "drivers__net__vxlan__vxlan_vnifilter", "kernel__trace__blktrace"}
NAMES = [name for name in places(data_root()) if name not in NEVER]


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return opened(RELEASE)


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    return {}


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest, kernel: Kernel, data: Path, modules: dict[str, Module]) -> Module:
    name = request.param
    if name not in modules:
        found = built(places(data)[name], kernel, [ACCEPTED[name]] if name in ACCEPTED else [])
        assert found.module is not None, found.verdict
        modules[name] = found.module
    return modules[name]


@pytest.fixture
def obj(module: Module) -> ObjectFile:
    return read_object(module.content, name=module.name)


def test_klp_relocations_stand_apart_with_their_flags(obj: ObjectFile) -> None:
    """Those of vmlinux before all others, for 6.1 walks its symbols for each; those of modules last."""
    late = klp_sections(obj)
    first = [s.index for s in late if s.name.startswith(".klp.rela.vmlinux.")]
    ordinary = min(s.index for s in obj.sections if s.type == elf.SHT_RELA and s not in late)
    assert first == list(range(ordinary - len(first), ordinary))
    last = [s.index for s in late if s.index not in first]
    assert last == list(range(len(obj.sections) - len(last), len(obj.sections)))
    bound = [row.symbol for index in first for row in obj.relocations[index]]
    assert len(bound) == len(set(bound)), "a symbol is looked up twice"
    symtab = obj.symtab
    assert symtab is not None
    named = {s.index for s in obj.symbols if s.name.startswith(".klp.sym.")}
    for section in late:
        assert section.type == elf.SHT_RELA and section.link == symtab.index
        assert section.flags == elf.SHF_ALLOC | elf.SHF_RELA_LIVEPATCH
        target = obj.sections[section.info]
        patched, rest = section.name.split(".", 4)[3:]
        assert rest == target.name and patched
        for row in obj.relocations[section.index]:
            assert row.symbol in named
            # livepatch_symbols of another object cannot be had before it (klp_resolve_symbols)
            assert patched == "vmlinux" or not obj.symbols[row.symbol].name.startswith(".klp.sym.vmlinux.")
    assert all((s.shndx == elf.LIVEPATCH) == (s.index in named) for s in obj.symbols)
    used = {row.symbol for s in late for row in obj.relocations[s.index]}
    assert used == named, "a symbol that nothing uses"


def test_a_symbol_is_resolved_before_it_is_used(kernel: Kernel, data: Path) -> None:
    """One look-up for each symbol of vmlinux, not for each of 48 references; in another order they would be zero."""
    found = built(places(data)["mm__swapfile"], kernel).module
    assert found is not None
    checker = Checker(kernel)
    report = checker.check(found.content)
    assert not report.problems and report.lookups is not None
    looked_up = {(b.symbol, b.sympos) for b in found.manifest.bindings}
    assert (report.lookups.relocations, report.lookups.functions) == (len(looked_up), len(report.replaced))
    assert len(found.manifest.bindings) > 1.5 * len(looked_up)
    assert report.lookups.walked == kernel.number_of_symbols and 0.1 < report.lookups.seconds < 1
    obj = read_object(found.content)
    late, plain = (obj.by_name[f"{kind}.text"].index for kind in (".klp.rela.vmlinux.", ".rela"))
    order, rows = {late: plain, plain: late}, obj.relocations
    swapped = [obj.sections[order.get(s.index, s.index)]._replace(index=s.index) for s in obj.sections]
    moved = {**rows, late: rows[plain], plain: rows[late]}
    other = checker.check(write_object(replace(obj, sections=tuple(swapped), relocations=moved)))
    assert {finding.code for finding in other.problems} >= {"klp-unresolved"}


def test_relocated_bytes_are_zero(obj: ObjectFile) -> None:
    rows = by_machine(obj.machine, where=obj.name).relocations
    count = 0
    for index, relocations in obj.relocations.items():
        target = obj.sections[obj.sections[index].info]
        for r in relocations:
            size = rows[r.type].size
            assert r.offset + size <= target.size, (target.name, r)
            assert target.data[r.offset : r.offset + size] == bytes(size), (target.name, r)
            count += 1
    assert count


def test_no_late_relocation_where_a_pass_has_been(obj: ObjectFile) -> None:
    """What belongs to a module is written after module_finalize: never into what that has patched."""
    for section in klp_sections(obj):
        if section.name.startswith(".klp.rela.vmlinux."):
            continue
        assert obj.sections[section.info].name not in {
            "__jump_table",
            ".static_call_sites",
            ".altinstr_replacement",
            ".altinstructions",
            ".parainstructions",
            ".retpoline_sites",
            ".return_sites",
            ".smp_locks",
            ".orc_unwind_ip",
            "__mcount_loc",
        }


def test_the_manifest_inside_is_what_the_module_holds(module: Module, obj: ObjectFile, kernel: Kernel) -> None:
    section = obj.by_name[SECTION]
    assert not section.is_alloc and section.data == module.manifest.to_bytes()
    manifest = json.loads(section.data)
    assert manifest == module.manifest.as_json()
    assert Manifest.within(obj) == Manifest.from_bytes(section.data, where=module.name) == module.manifest
    assert manifest["name"] == module.name
    assert manifest["kernel"]["release"] == RELEASE
    assert manifest["kernel"]["sha256"] == hashlib.sha256(kernel.path.read_bytes()).hexdigest()
    bindings, late = set(), {section.index for section in klp_sections(obj)}
    for index, rows in obj.relocations.items():
        table = obj.sections[index]
        for r in rows:
            if not obj.symbols[r.symbol].name.startswith(".klp.sym."):
                continue
            exporter, _, name = obj.symbols[r.symbol].name.removeprefix(".klp.sym.").partition(".")
            symbol, _, sympos = name.rpartition(",")
            patched = table.name.split(".")[3] if index in late else "vmlinux"
            bindings.add(
                (obj.sections[table.info].name, r.offset, r.type, patched, exporter, symbol, int(sympos), r.addend)
            )
    keys = ("section", "offset", "type", "patched", "object", "symbol", "sympos", "addend")
    assert {tuple(row[k] for k in keys) for row in manifest["bindings"]} == bindings
    labels = {s.name: s for s in obj.symbols if s.is_function}
    for row in manifest["functions"]:
        assert labels[row["symbol"]].size == row["new_size"], row["name"]
        assert row["redirected"] == ("old_name" in row and row["role"] in ("changed", "carrier"))
    strides = {"__bug_table": 12, "__jump_table": 16, ".altinstructions": 12, "__ex_table": 12, ".orc_unwind": 6}
    for table, owners in manifest["special_entries"].items():
        assert set(owners) <= {row["name"] for row in manifest["functions"]}
        if table in strides:
            assert obj.by_name[table].size == strides[table] * sum(owners.values()), table
    assert manifest["accepted"] == [] or module.name in map(module_name, ACCEPTED)


def test_klp_functions_lead_to_the_new_code(module: Module, obj: ObjectFile, kernel: Kernel) -> None:
    """Every redirected function has a record in .data: name, and a pointer to the code of that name."""
    data = obj.by_name[".data"]
    strings = obj.by_name[".rodata.str1.1"]
    layout = kernel.layout("klp_func")
    rows = {r.offset: r for r in obj.relocations_of(data.index)}
    step = layout.offset_of("new_func") - layout.offset_of("old_name")
    found = {}
    for at, row in rows.items():
        symbol = obj.symbols[row.symbol]
        if symbol.shndx == strings.index and at + step in rows:
            end = strings.data.index(b"\0", symbol.value + row.addend)
            new = rows[at + step]
            code = obj.sections[obj.symbols[new.symbol].shndx]
            if not code.is_exec:
                continue
            place = obj.symbols[new.symbol].value + new.addend
            names = {s.name for s in obj.symbols if s.is_function and s.shndx == code.index and s.value == place}
            rank = at - layout.offset_of("old_name") + layout.offset_of("old_sympos")
            found[strings.data[symbol.value + row.addend : end].decode()] = (
                names,
                int.from_bytes(data.data[rank : rank + 8], "little"),
            )
    wanted = [row for row in module.manifest.as_json()["functions"] if row["redirected"]]
    assert set(found) == {row["old_name"] for row in wanted}
    for row in wanted:
        names, sympos = found[row["old_name"]]
        assert row["symbol"] in names and sympos == row["sympos"]


def test_other_readers_agree(module: Module, obj: ObjectFile, tmp_path: Path) -> None:
    file = ELFFile(io.BytesIO(module.content))
    assert [s.name for s in file.iter_sections()] == [s.name for s in obj.sections]
    need("readelf")
    path = tmp_path / "module.ko"
    path.write_bytes(module.content)
    done = subprocess.run(["readelf", "--all", "--wide", path], capture_output=True, text=True, check=True)
    assert done.stderr == "", "readelf complains"


BUILD = """
import hashlib, sys
from pathlib import Path
from builder.binary.kernel import Kernel
from builder.binary.manifest import SECTION, Manifest
from tests.running.pairs import built, places
kernel = Kernel.open(sys.argv[1])
for name, place in places(Path(sys.argv[2])).items():
    found = built(place, kernel)
    print(name, hashlib.sha256(found.module.content).hexdigest() if found.module else found.verdict)
"""


@pytest.mark.slow
def test_the_same_bytes_in_every_process(kernel: Kernel, data: Path) -> None:
    """Whatever order the interpreter's sets have."""
    said = []
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", BUILD, str(kernel.path), str(data)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout.splitlines())
    assert len(said[0]) == len(places(data))
    assert said[0] == said[1] == said[2]


def test_the_same_bytes_twice(module: Module, kernel: Kernel, data: Path) -> None:
    name = next(n for n in NAMES if f"bespoke_{n}".replace("-", "_")[:55] == module.name)
    again = built(places(data)[name], kernel, [ACCEPTED[name]] if name in ACCEPTED else [])
    assert again.module is not None and again.module.content == module.content


def test_what_was_not_meant_is_seen(obj: ObjectFile, module: Module) -> None:
    """The read-back can fail: each kind of difference between file and model is found."""
    verify(module.content, obj)
    text = obj.by_name[".modinfo"]
    late = next(iter(obj.relocations))
    first = obj.relocations[late][0]
    moved = {**obj.relocations, late: (first._replace(addend=first.addend + 1), *obj.relocations[late][1:])}
    wrong = (
        with_data(obj, ".modinfo", text.data[:-2] + b"?\0"),
        renamed(lambda n: n == "klp_enable_patch", lambda n: "klp_enable_patches")(obj),
        ObjectFile(obj.name, obj.machine, obj.type, obj.sections, obj.symbols, moved),
    )
    for model in wrong:
        assert write_object(model) != module.content
        with pytest.raises(ReadbackError):
            verify(module.content, model)
    with pytest.raises((ReadbackError, InputError)):
        verify(module.content[:1000], obj)

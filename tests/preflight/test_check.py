"""`bespoke check`: what it reports of good modules, and how the command behaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from builder.binary import elf, read_object, write_object
from builder.binary.kernel import Kernel, read_module_bytes
from builder.cli import run
from builder.image.derive import derive_state
from builder.load.boot import boot
from builder.load.booted import booted
from builder.load.passes.context import NOP5
from builder.preflight.check import Checker
from tests.emit.edits import with_section
from tests.kernel.synthetic import PACKERS
from tests.preflight.broken import Editor

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("name", ["dm_mod", "loop", "8021q", "kvm", "nf_tables"])
def test_a_module_of_the_distribution_has_nothing_against_it(kernel: Kernel, name: str) -> None:
    path = kernel.find_module(name)
    assert path is not None
    report = Checker(kernel).check(path, ("max", "Nehalem"))
    assert (report.refusals, report.problems, report.taints) == ((), (), ())
    assert report.exit_status == 0
    first, second = report.cpus
    assert first.counts["apply_returns"] == second.counts["apply_returns"] > 10
    assert any(site.new == NOP5 for site in first.sites)
    returns = [site.new for site in second.sites if site.step == "apply_returns"]
    assert returns
    assert all(code[0] == 0xE9 or code == b"\xc3\xcc\xcc\xcc\xcc" for code in returns)


def test_a_compressed_module_is_checked_as_what_it_holds(kernel: Kernel, tmp_path: Path) -> None:
    path = kernel.find_module("dummy")
    assert path is not None
    content, checker = read_module_bytes(path), Checker(kernel)
    plain = checker.check(content)
    assert plain.exit_status == 0
    for ending, kind in (("xz", "xz"), ("zst", "zstd"), ("gz", "gzip")):
        packed = tmp_path / f"dummy.ko.{ending}"
        packed.write_bytes(PACKERS[kind](content))
        report = checker.check(packed)
        assert (report.exit_status, report.cpus) == (0, plain.cpus)


def test_an_image_without_its_modules_says_what_is_missing(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a symbol that nobody exports, the module that would."""
    path = kernel.find_module("dm_crypt")
    assert path is not None
    monkeypatch.setattr(Kernel, "modules_root", None)
    report = Checker(Kernel.open(kernel.path)).check(path)
    assert {finding.code for finding in report.refusals} == {"unknown-symbol"}
    said = [finding.message for finding in report.problems]
    assert f"module dm_mod is not here, for there is no module tree of {kernel.release}; give its file " in said[0]


def test_a_livepatch_is_shown_with_what_it_replaces(kernel: Kernel, patches: Mapping[str, Path]) -> None:
    checker = Checker(kernel, patches)
    report = checker.check(patches["guest_patch_vmlinux"])
    assert report.kernel_accepts
    assert [row["function"] for row in report.replaced] == ["cmdline_proc_show"]
    assert report.taints == ("O", "E", "K")
    other = checker.check(patches["guest_patch"])
    assert other.exit_status == 0
    assert [(row["object"], row["function"]) for row in other.replaced] == [("guest_target", "target_get")]
    assert checker.simulated("max").modules == {}
    alone = Checker(kernel).check(patches["guest_patch"])
    assert [finding.code for finding in alone.problems] == ["object-unknown"]


def test_a_kernel_that_has_booted_is_restored_byte_by_byte(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept is as what is made; what is damaged is made again."""
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path))
    made = boot(kernel, derive_state(kernel, "max", cmdline="mitigations=off"))
    booted(kernel, "max", cmdline="mitigations=off")
    found = booted(kernel, "max", cmdline="mitigations=off")
    assert found.state == made.state and tuple(found.ftrace) == tuple(made.ftrace) != ()
    for mine, other in zip(found.memory, made.memory, strict=True):
        same = bytes(mine.data) == bytes(other.data)
        assert (mine.base, mine.name) == (other.base, other.name) and same, mine.name
    (kept,) = tmp_path.rglob("booted-*")
    before = kept.read_bytes()
    kept.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert "damaged" not in caplog.text
    booted(kernel, "max", cmdline="mitigations=off")
    assert "damaged" in caplog.text and kept.read_bytes() == before


def test_several_modules_by_one_command(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(kernel.find_module(name)) for name in ("loop", "dm_mod")]
    alone = []
    for path in paths:
        assert run(["check", path, "--kernel", str(kernel.path), "--json"]) == 0
        alone.append(json.loads(capsys.readouterr().out))
    assert run(["check", *paths, "--kernel", str(kernel.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"modules": alone}


def test_every_relocation_is_shown(kernel: Kernel, patches: Mapping[str, Path]) -> None:
    """As many as an independent reader of the file counts, and each bound to what the kernel's symbols say."""
    report = Checker(kernel).check(patches["guest_patch_vmlinux"])
    with patches["guest_patch_vmlinux"].open("rb") as stream:
        tables = [s for s in ELFFile(stream).iter_sections() if s.name.startswith((".rela", ".klp.rela"))]
        written = {s.name: s["sh_size"] // 24 for s in tables if s.name in report.relocations}
    rows = list(report.bound())
    assert len(rows) == sum(written.values()) > 20
    assert report.as_json()["bound"] == rows
    place = f"{kernel.export('klp_enable_patch').address:#x}"  # type: ignore[union-attr]
    assert {row["address"] for row in rows if row["symbol"] == "klp_enable_patch"} == {place}


def test_unknown_tables_and_wrong_versions_are_named(kernel: Kernel, patches: Mapping[str, Path]) -> None:
    data = read_module_bytes(patches["guest_target"])
    checker = Checker(kernel)
    strange = Editor(data)
    strange.rename(".return_sites", "__other_sites")
    assert {finding.code for finding in checker.check(strange.done()).problems} >= {"unknown-table", "return-sites"}
    old = Editor(data)
    old.replace(".modinfo", b"mod_unload", b"mod_unlode")
    report = checker.check(old.done())
    assert not report.kernel_accepts
    assert [finding.code for finding in report.refusals] == ["vermagic"]


def test_what_is_applied_in_the_image_alone_is_left_alone(kernel: Kernel, patches: Mapping[str, Path]) -> None:
    """As modules of 6.16 have it for `access_ok()`."""
    module = Editor(read_module_bytes(patches["guest_target"]))
    module.rename(".rodata.str1.1", "runtime_ptr_X")
    assert "unknown-table" not in {finding.code for finding in Checker(kernel).check(module.done()).problems}


def test_a_table_of_tags_without_one_is_padding(kernel: Kernel, patches: Mapping[str, Path]) -> None:
    """As modules of 6.16 have it, with nothing in it; with tags it is of no known kind."""
    checker, codes = Checker(kernel), []
    for type_of in (elf.SHT_PROGBITS, elf.SHT_NOBITS):
        module = Editor(read_module_bytes(patches["guest_target"]))
        module.set(".rodata.str1.1", type=type_of)
        module.rename(".rodata.str1.1", ".codetag.alloc")
        codes.append("unknown-table" in {finding.code for finding in checker.check(module.done()).problems})
    assert codes == [True, False]


def test_a_section_that_is_called_like_a_table_that_was_applied(kernel: Kernel, patches: Mapping[str, Path]) -> None:
    checker, good = Checker(kernel), read_object(patches["guest_patch_vmlinux"])
    rows = list(checker.check(write_object(good)).bound())
    name = next(s.name for s in good.sections if s.type == elf.SHT_RELA)
    false = good.by_name[".comment"]._replace(name=name, data=b"odd", size=3)
    report = checker.check(write_object(with_section(good, false)))
    assert rows and list(report.bound()) == rows


def test_the_command(
    kernel: Kernel, patches: Mapping[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image, module = str(kernel.path), str(patches["guest_patch_vmlinux"])
    assert run(["check", module, "--kernel", image, "--cpu", "qemu64", "--cpu", "EPYC", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kernel_accepts"] is True
    assert [cpu["cpu"] for cpu in document["cpus"]] == ["qemu64", "EPYC"]
    assert document["cpus"][0]["sites"][0].keys() == {"pass", "address", "place", "old", "new"}
    assert run(["check", module, "--kernel", image]) == 0
    assert "nothing stands against it" in capsys.readouterr().out
    broken = tmp_path / "x.ko"
    broken.write_bytes(read_module_bytes(Path(module))[:1000])
    assert run(["check", str(broken), "--kernel", image, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["refusals"]
    assert run(["check", module, "--kernel", image, "--cpu", "Z80"]) == 2
    assert "unknown CPU model" in capsys.readouterr().err
    assert run(["check", str(tmp_path / "none.ko"), "--kernel", image]) == 2

"""Findings that no broken livepatch of broken.py shows, each by a module, a kernel or a record of a load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary import Address
from builder.binary.module import ModuleFile
from builder.load import accept
from builder.load.module import Site
from builder.preflight.check import Checker, CheckReport
from builder.preflight.problems import overlaps
from samples.objects import TARGET_NAME, target_objects
from tests.docs.examples import broken_livepatch
from tests.preflight.broken import Editor
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel


def codes(report: CheckReport) -> set[str]:
    return {finding.code for finding in (*report.refusals, *report.problems)}


def checked(release: str, change: str, *words: str) -> set[str]:
    """What is said of the livepatch of the sample module after one change of it that an Editor makes."""
    subject = broken_livepatch(release)
    editor = Editor(subject.forms["intact"])
    getattr(editor, change)(*words)
    return codes(subject.checker().check(editor.done()))


def test_two_modinfos(release_612: str) -> None:
    """modinfo: since 6.12 there is to be one (elf_validity_cache_copy, kernel/module/main.c)."""
    assert "modinfo" in checked(release_612, "rename", "__versions", ".modinfo")


def test_a_table_of_a_feature_that_the_kernel_has_not(release_61: str) -> None:
    """dead-table: .call_sites came with call depth tracking (6.2)."""
    assert "dead-table" in checked(release_61, "rename", ".return_sites", ".call_sites")


def test_relocations_of_a_module_s_symbols_for_a_table_that_was_read(release_61: str) -> None:
    """klp-late"""
    subject = broken_livepatch(release_61)
    editor = Editor(subject.forms["intact"])
    late = f".klp.rela.{TARGET_NAME}..text"
    editor.rename(".return_sites", "__jump_table").set(late, info=editor.index(".return_sites"))
    assert "klp-late" in codes(subject.checker().check(editor.done()))


def test_a_kernel_that_takes_no_livepatch(release_61: str) -> None:
    """livepatch: CONFIG_LIVEPATCH is off."""
    kernel = opened(release_61)
    module = ModuleFile.read(broken_livepatch(release_61).forms["intact"], "fix.ko")
    assert [*accept.modinfo_refusals(module, kernel)] == []

    class Without:
        vermagic = kernel.vermagic
        features = replace(kernel.features, livepatch=False)

    assert [row.code for row in accept.modinfo_refusals(module, Without())] == ["livepatch"]  # type: ignore[arg-type]


def test_no_versions_where_they_are_asked_for(release_61: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """no-versions: a kernel with CONFIG_MODULE_FORCE_LOAD takes the module, with a taint."""
    assert "no-versions" not in checked(release_61, "rename", "__versions", "__versionX")
    monkeypatch.setattr(accept, "force_load", lambda kernel: False)
    assert "no-versions" in checked(release_61, "rename", "__versions", "__versionX")


def test_an_export_of_a_namespace_that_is_not_imported(release_61: str) -> None:
    """namespace: dma_buf_* of 6.1 are exported to the namespace DMA_BUF."""
    kernel = opened(release_61)
    path = kernel.find_module("drm")
    assert path is not None
    data = path.read_bytes()
    checker = Checker(kernel, {})
    assert "namespace" not in codes(checker.check(data))
    assert "namespace" in codes(checker.check(data.replace(b"import_ns=", b"imporT_ns=")))


def test_a_module_that_it_patches_and_that_cannot_be_loaded(release_61: str, tmp_path: Path) -> None:
    """object: the file is for another kernel."""
    subject = broken_livepatch(release_61)
    target = tmp_path / "target.ko"
    target.write_bytes(target_objects(release_61).module.read_bytes().replace(b"_printk\0", b"_prinXX\0"))
    report = Checker(subject.kernel, {TARGET_NAME: target}).check(subject.forms["intact"])
    assert "object" in codes(report)


def test_one_place_that_two_passes_write() -> None:
    """overlap: the same place by two is one instruction that both mean."""

    def site(step: str, address: int, size: int) -> Site:
        return Site(step, Address(address), bytes(size), bytes([0x90] * size))

    rows = site("alternatives", 0x1000, 5), site("static-call", 0x1003, 5)
    assert [row.code for row in overlaps(rows)] == ["overlap"]
    assert [*overlaps((rows[0], site("static-call", 0x1005, 5)))] == []
    assert [*overlaps((rows[0], replace(rows[1], address=Address(0x1000))))] == []

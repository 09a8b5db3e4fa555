"""Findings that no broken livepatch of broken.py shows, each by a module, a kernel or a record of a load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder.binary import Address
from builder.load import accept
from builder.load.module import Site
from builder.preflight.check import Checker, CheckReport
from builder.preflight.problems import overlaps
from tests.docs.forms import broken_livepatch
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


def test_one_place_that_two_passes_write() -> None:
    """overlap: the same place by two is one instruction that both mean."""

    def site(step: str, address: int, size: int) -> Site:
        return Site(step, Address(address), bytes(size), bytes([0x90] * size))

    rows = site("alternatives", 0x1000, 5), site("static-call", 0x1003, 5)
    assert [row.code for row in overlaps(rows)] == ["overlap"]
    assert [*overlaps((rows[0], site("static-call", 0x1005, 5)))] == []
    assert [*overlaps((rows[0], replace(rows[1], address=Address(0x1000))))] == []

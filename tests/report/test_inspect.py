"""What `bespoke inspect` shows: of three modules made by others and of ours, as text, as a page, as a document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.acquire.source import fetch_source
from builder.binary import write_object
from builder.cli import run
from builder.compose.owner import Objects
from builder.pipeline import ModulePlan, build, diff
from samples.objects import TARGET_NAME, target_objects
from tests.conftest import needed
from tests.report.conftest import Page
from tests.report.test_html import assert_sound
from tests.support.compiling import Build
from tests.support.foreign import KPATCH, klp_build, vendor
from tests.support.kernels import opened
from tests.support.modules import compiled_modules

SAMPLES = ("livepatch-sample", "livepatch-callbacks-demo", "livepatch-shadow-fix1")


@pytest.fixture(scope="module")
def kernel_samples(release_61: str) -> Mapping[str, Path]:
    return {name: kernel_sample(release_61, name) for name in SAMPLES}


def kernel_sample(release_61: str, name: str) -> Path:
    """One of the kernel's own samples/livepatch, compiled against the headers of the release; kept in the cache."""
    with needed():
        folder = fetch_source(release_61).root / "samples/livepatch"
    kbuild = "obj-m := " + " ".join(f"{name}.o" for name in SAMPLES) + "\n"
    return compiled_modules("livepatch-samples", release_61, [folder / f"{name}.c" for name in SAMPLES], kbuild)[name]


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(["inspect", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return str(out)


@pytest.mark.kernel
def test_the_kernel_s_own_samples(
    kernel_samples: Mapping[str, Path], release_61: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is known of them from their sources (samples/livepatch of the kernel)."""
    text = said(capsys, kernel_samples["livepatch-sample"], "--html", tmp_path / "page.html")
    assert f"It replaces 1 function in vmlinux, for {release_61}." in text
    assert "vmlinux cmdline_proc_show livepatch_cmdline_proc_show" in " ".join(text.split())
    page = Page((tmp_path / "page.html").read_text())
    assert_sound(page)
    assert "cmdline_proc_show" in page.text(tag="main") and "hand or another tool" in page.text(tag="header")
    document = json.loads(said(capsys, kernel_samples["livepatch-callbacks-demo"], "--json"))
    assert document["objects"] == ["vmlinux", "livepatch_callbacks_busymod", "livepatch_callbacks_mod"]
    assert [row["name"] for row in document["functions"]] == ["busymod_work_func"] and not document["problems"]
    assert len(document["callbacks"]) == 12 and document["parameters"] == ["pre_patch_ret"]
    document = json.loads(said(capsys, kernel_samples["livepatch-shadow-fix1"], "--json"))
    assert [row["name"] for row in document["functions"]] == ["dummy_alloc", "dummy_free"]
    assert {row["object"] for row in document["functions"]} == {"livepatch_shadow_mod"}


@pytest.mark.kernel
def test_our_own(release_61: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """All that the manifest says of what is replaced is found in the structures too."""
    made = target_objects(release_61)
    objects = Objects(opened(release_61), {TARGET_NAME: made.module})
    module = build([diff(made.old, made.new)], objects, ModulePlan("ours", replace=True))
    assert module is not None
    path = tmp_path / "ours.ko"
    path.write_bytes(module.content)
    document = json.loads(said(capsys, path, "--json"))
    wanted = {(row.object, row.name) for row in module.manifest.redirected}
    assert {(row["object"], row["name"]) for row in document["functions"]} == wanted
    assert document["made_by"] == "bespoke" and document["replace"] is True
    assert all(row["role"] and row["old_size"] and row["code"] for row in document["functions"])
    assert sum(row["references"] for row in document["klp_symbols"]) == len(module.manifest.bindings)
    text = said(capsys, path, "-v", "--html", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert_sound(page)
    for _, name in wanted:
        assert name in text and name in page.text(tag="main")


def test_those_of_other_tools(compiled: Build, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    paths = []
    for name, source in (("kpatch", KPATCH), ("klp-build", klp_build()), ("vendor", vendor())):
        paths.append(tmp_path / f"{name}.ko")
        paths[-1].write_bytes(write_object(compiled(source)))
    text = said(capsys, paths[0])
    assert "It replaces 2 functions in vmlinux and xfs, for 6.1.0-56-amd64, and runs 2 of its own when" in text
    assert "get_size,2" in text
    assert "It replaces 3 functions" in said(capsys, paths[1])
    text = said(capsys, paths[2])
    assert "and takes the place of every livepatch before it" in text and "CVE-2026-0001" in text
    assert "7 (version 1), 12 (version 3)" in text
    text = said(capsys, paths[0], paths[2], "--html", tmp_path / "page.html")
    assert "added    vmlinux:size,4" in text and "removed  xfs:get_size,2" in text
    page = Page((tmp_path / "page.html").read_text())
    assert_sound(page)
    assert "removed get_size,2 xfs" in page.text(tag="main")
    document = json.loads(said(capsys, paths[0], paths[2], "--json"))
    assert document["difference"]["removed"] == ["xfs:get_size"]


def test_the_page_does_not_overwrite_the_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = tmp_path / "x.ko"
    module.write_bytes(b"x")
    assert run(["inspect", str(module), "--html", str(module)]) == 2 and module.read_bytes() == b"x"
    assert run(["inspect", str(module)]) == 2
    assert "no ELF file" in capsys.readouterr().err

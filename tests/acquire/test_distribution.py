"""The real thing: a distribution's packages, its source prepared, objects compiled from it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.acquire import apt
from builder.acquire.compile import AS_USUAL
from builder.acquire.packages import cached_kernel, fetch_headers, fetch_kernel, newest_kernel
from builder.acquire.patch import prepare_patch
from builder.acquire.source import SourceTree, fetch_source
from builder.acquire.sources import SourceTarget, find_source
from builder.acquire.work import Work
from builder.binary.kernel import Kernel
from builder.cli import run
from builder.compose.owner import Objects
from builder.errors import Allowed, BespokeError, InputError, RefusedError
from builder.operate.trail import manifest_of
from builder.pipeline import ModulePlan, build, diff, patch
from samples.fixes import PATCHES
from tests.acquire.campaign import campaign, judge
from tests.acquire.one_line import one_line
from tests.conftest import lacks

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="session")
def tree(release_61: str) -> SourceTree:
    return fetch_source(release_61)


@pytest.fixture(scope="session")
def kernel(release_61: str) -> Kernel:
    return Kernel.open(release_61)


def test_a_kernel_is_fetched_once_and_found_again(release: str) -> None:
    kernel = fetch_kernel(release)
    assert kernel.image.is_file() and kernel.config.is_file() and kernel.modules.is_dir()
    assert cached_kernel(release) == kernel == fetch_kernel(release)
    assert apt.lookup(f"linux-image-{release}", kernel.version).version == kernel.version


def test_headers_refer_to_nothing_outside_themselves(release: str) -> None:
    headers = fetch_headers(release)
    root = headers.build.parents[2]
    assert os.access(headers.objtool, os.X_OK)
    assert "include /usr" not in (headers.build / "Makefile").read_text()
    for path in (headers.build, headers.common):
        for entry in path.iterdir():
            assert entry.resolve().is_relative_to(root), entry


def test_what_is_not_offered_is_named() -> None:
    with pytest.raises(InputError, match=r"linux-image-6\.1\.0-1-none: no package.*offered of 6\.1: 6\.1\.0-"):
        fetch_kernel("6.1.0-1-none")
    with pytest.raises(InputError, match=r"no package of Linux 2\.4"):
        newest_kernel("2.4")
    with pytest.raises(InputError, match="no kernel series"):
        newest_kernel("stable")
    with pytest.raises(InputError, match=r"no longer offered \(offered: "):
        apt.lookup("linux-source-6.1", "6.1.1-1")


def test_a_damaged_package_is_downloaded_again(cache: Path) -> None:
    package = apt.lookup("linux-kbuild-6.1")
    path = apt.download(package)
    path.write_bytes(path.read_bytes()[:-100])
    assert apt.sha256_of(apt.download(package)) == package.sha256
    assert not list((cache / "tmp").iterdir())


@pytest.mark.slow
def test_the_source_is_prepared_as_the_kernel_was(tree: SourceTree, release_61: str) -> None:
    assert tree.drift == ()
    assert tree.compiler.same
    assert fetch_kernel(release_61).version.startswith(f"{tree.kernel_version}-")
    assert f'"{release_61}"' in (tree.root / "include/generated/utsrelease.h").read_text()
    with tree.objects() as objects:
        linked = objects.linked()
        assert len(linked) > 10_000
        assert objects.of_source("fs/proc/version.c")[0].owners == ("vmlinux",)
        assert objects.of_source("fs/ext4/super.c")[0].owners == ("ext4",)
        assert objects.of_source("virt/kvm/kvm_main.c")[0].owners == ("kvm",)
        assert objects.of_source("arch/x86/entry/vdso/vclock_gettime.c")[0].owners == ()
        with pytest.raises(InputError, match="no object"):
            objects.of_object("fs/nothing.o")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "owner"), [("04-hostname-off-by-one", "vmlinux"), ("08-zram-limit-unlock", "zram")])
def test_a_patch_becomes_a_module(name: str, owner: str, tree: SourceTree, kernel: Kernel) -> None:
    found = prepare_patch([PATCHES / f"{name}.patch"], tree)
    (pair,) = found.pairs
    assert pair.owner == owner and found.warnings == ()
    module = build([diff(pair.old, pair.new)], Objects(kernel), ModulePlan("fix"), inside=owner)
    assert module is not None
    assert owner in module.manifest.objects
    assert [f.name for f in found.tree.root.glob("*.orig")] == []


@pytest.mark.slow
def test_unmodified_objects_are_the_code_that_runs(tree: SourceTree, kernel: Kernel) -> None:
    rows = campaign(kernel, tree, 12, seed=3)
    assert [row.differing for row in rows if row.differing] == []
    assert sum(row.found for row in rows) > 50


@pytest.mark.slow
def test_what_looks_like_other_code_and_is_not(tree: SourceTree, kernel: Kernel) -> None:
    """Physical addresses of the kernel's data (a sum that wraps), and weak functions that x86 overrides."""
    with tree.objects() as objects:
        commands = [objects.of_object(name) for name in ("arch/x86/kernel/idt.o", "kernel/entry/common.o")]
    compiled = Work(tree, AS_USUAL).compile_old(commands)
    running = Objects(kernel).image
    rows = [judge(command, made, running) for command, made in zip(commands, compiled, strict=True)]
    assert [row.differing for row in rows] == [(), ()]
    assert [row.overridden for row in rows] == [(), ("arch_do_signal_or_restart",)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_line_in_any_directory_is_a_module_or_is_refused(tree: SourceTree, kernel: Kernel) -> None:
    """`python -m tests.acquire.campaign --one-line 200` does this at large."""
    rows = list(one_line(tree, kernel, 3, seed=2, first=("kernel/bpf",)))
    assert rows[0].source.startswith("kernel/bpf/") and rows[0].outcome == "built"
    assert {row.outcome for row in rows} <= {"built", "refused"}, rows


DS = "arch/x86/events/intel/ds.c"
SOURCE_LINE = "static u64 get_data_src(struct perf_event *event, u64 aux)"


@pytest.mark.slow
@pytest.mark.parametrize("fix", ["changed", "absorbed"])
def test_the_old_code_is_matched_also_where_it_disappears(
    fix: str, tree: SourceTree, kernel: Kernel, tmp_path: Path
) -> None:
    """A tree in which one function differs is caught by that function, be it that the fix has it inlined."""
    text = (tree.root / DS).read_text()
    assert text.count(f"{SOURCE_LINE}\n{{\n\tu64 val = PERF_MEM_NA;") == 1
    wrong = text.replace("u64 val = PERF_MEM_NA;\n\tint fl", "u64 val = PERF_MEM_NA | 4096;\n\tint fl")
    assert wrong != text
    if fix == "changed":
        fixed = wrong.replace("PERF_MEM_NA | 4096", "PERF_MEM_NA | 8192")
    else:
        fixed = wrong.replace(SOURCE_LINE, SOURCE_LINE.replace("static", "static __always_inline"))
    made = []
    for name, content in (("wrong", wrong), ("fixed", fixed)):
        patch = tmp_path / f"{name}.patch"
        patch.write_text(
            "".join(
                difflib.unified_diff(
                    text.splitlines(keepends=True), content.splitlines(keepends=True), f"a/{DS}", f"b/{DS}"
                )
            )
        )
        made.append(prepare_patch([patch], tree).pairs[0].new)
    with pytest.raises(RefusedError) as caught:
        build([diff(*made)], Objects(kernel), ModulePlan("fix"), inside="vmlinux")
    assert ("run-pre-mismatch", "get_data_src") in [(row.code, row.symbol) for row in caught.value.refusals]


@pytest.mark.long
def test_a_pair_alone_gets_its_callers_from_the_source(tree: SourceTree, kernel: Kernel, tmp_path: Path) -> None:
    source, text = "lib/xarray.c", (tree.root / "lib/xarray.c").read_text()
    (tmp_path / "fix.patch").write_text(_touching(source, text, "xas_split_alloc").replace("nop", "pause"))
    (pair,) = prepare_patch([tmp_path / "fix.patch"], tree).pairs
    words = ["build", str(pair.old), str(pair.new), "--kernel", kernel.release, "-o", str(tmp_path / "fix.ko")]
    assert run([*words, "--html", str(tmp_path / "fix.html")]) == 1  # its callers are not there
    assert run([*words, "--source", "linux", "--html", str(tmp_path / "fix.html")]) == 0
    made = patch([tmp_path / "fix.patch"], tree, Objects(kernel), ModulePlan("fix"), AS_USUAL)
    assert made.module is not None and {"split_huge_page_to_list", "__filemap_add_folio"} <= set(made.functions)
    built = manifest_of((tmp_path / "fix.ko").read_bytes(), "fix.ko")
    assert [f.name for f in built.redirected] == [f.name for f in made.module.manifest.redirected]


@pytest.fixture
def older(tree: SourceTree) -> Iterator[str]:
    """Another version of the source that the archive offers."""
    ours = tree.kernel_version
    others = [p.version for p in apt.offered("linux-source-6.1") if not p.version.startswith(f"{ours}-")]
    if not others:
        lacks("the archive offers no other version of linux-source-6.1")
    yield f"linux-source-6.1={others[-1]}"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_source_of_another_release_is_caught_by_function(older: str, kernel: Kernel, tmp_path: Path) -> None:
    """The layout of a structure differs between the releases; a changed function that uses it says so by name."""
    target = SourceTarget(kernel.release, banner=kernel.banner)
    try:
        other = find_source(older, target)
    except RefusedError as refused:  # its configuration differs too, which is said before any code is looked at
        drift = Allowed.parse(f"{row.code}:{row.symbol}" for row in refused.refusals if row.code == "config-drift")
        other = find_source(older, target, allowed=drift)
    rows = [row for row in campaign(kernel, other, 40, seed=1) if row.differing]
    # A piece that the compiler took out of a function (.cold, .part.0) has no head in the source to touch.
    found = [(row.name, name) for row in rows for name, _ in row.differing if "." not in name]
    assert found, "40 objects are the same in both releases"
    path_of_object, name = found[0]
    with other.objects() as objects:
        source = objects.of_object(path_of_object).source
    text = (other.root / source).read_text()
    with pytest.raises(BespokeError) as caught:
        path = tmp_path / "fix.patch"
        path.write_text(_touching(source, text, name))
        patch([path], other, Objects(kernel), ModulePlan("fix"), AS_USUAL)
    error = caught.value
    assert isinstance(error, RefusedError)
    assert ("run-pre-mismatch", name) in [(row.code, row.symbol) for row in error.refusals]


def _touching(source: str, text: str, function: str) -> str:
    """A patch that adds a barrier at the head of a function."""
    import re

    match = re.search(rf"^[^\n;=]*\b{re.escape(function)}\([^;{{]*\)\n\{{\n", text, re.MULTILINE)
    assert match is not None, function
    new = f'{text[: match.end()]}\tasm volatile("nop");\n{text[match.end() :]}'
    return "".join(
        difflib.unified_diff(
            text.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{source}", f"b/{source}"
        )
    )

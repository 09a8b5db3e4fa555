"""A prepared tree that somebody else has worked in is noticed, and made anew."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from builder.acquire import tree_state
from builder.acquire.preparing import PROGRAMS, STAMP
from builder.acquire.source import FOLDERS, SourceTree
from builder.acquire.sources import SourceTarget, find_source
from builder.acquire.tree_state import DisturbedError, disturbed, keep_state
from builder.errors import ToolError
from tests.conftest import need

MAKEFILE = """\
KERNELRELEASE ?= stray-release
olddefconfig:
\t@:
modules_prepare:
\tmkdir -p include/generated
\techo '#define UTS_RELEASE "$(KERNELRELEASE)"' > include/generated/utsrelease.h
kernelversion:
\t@echo 6.1.0
"""
"""As much of a kernel's as preparing asks for."""


def test_what_is_changed_gone_or_new(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / ".bespoke").mkdir()
    for name in ("kernel/fork.c", "kernel/exit.c", "Makefile", ".config"):
        (tmp_path / name).write_text("text")
    os.symlink("absent", tmp_path / "link")
    assert disturbed(tmp_path) == []
    keep_state(tmp_path)
    (tmp_path / "kernel/fork.o").write_text("new")
    (tmp_path / ".bespoke/ours").write_text("new")
    assert disturbed(tmp_path) == []
    (tmp_path / "kernel/exit.c").unlink()
    (tmp_path / ".config").write_text("another")
    os.utime(tmp_path / "Makefile", (1, 1))
    assert sorted(disturbed(tmp_path)) == [".config", "Makefile", "kernel/exit.c"]
    keep_state(tmp_path)
    assert disturbed(tmp_path) == []


def test_what_nothing_is_made_of_is_left_out(tmp_path: Path) -> None:
    """Other architectures than the one that was prepared, documentation and tests: a third of a kernel's files."""
    read = ("arch/x86/mm/init.c", "arch/x86/include/generated/asm/a.h", "tools/objtool/objtool", "include/linux/fs.h")
    unread = ("arch/arm/mm/init.c", "Documentation/index.rst", "tools/testing/run.c", ".bespoke/config")
    for name in (*read, *unread):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    keep_state(tmp_path)
    for name in (*read, *unread):
        (tmp_path / name).write_text("another")
    assert sorted(disturbed(tmp_path)) == sorted(read)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that can be prepared, in a cache of its own."""
    need(*PROGRAMS)
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "linux"
    place.mkdir()
    (place / "Makefile").write_text(MAKEFILE)
    (place / "Kconfig").write_text("")
    version = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    (tmp_path / "config").write_text(f'CONFIG_CC_VERSION_TEXT="{version}"\nCONFIG_CC_IS_GCC=y\n')
    return place


def prepared(source: Path) -> SourceTree:
    return find_source(str(source), SourceTarget("6.1.0-ours", source.parent / "config"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_stray_make_is_noticed_and_mended(source: Path, packed: bool, caplog: pytest.LogCaptureFixture) -> None:
    if packed:
        folder, source = source, source.with_suffix(".tar")
        subprocess.run(["tar", "-C", folder.parent, "-cf", source, folder.name], check=True)
    root = prepared(source).root
    header = root / "include/generated/utsrelease.h"
    assert "6.1.0-ours" in header.read_text()
    (root / "fork.o").write_text("somebody's")
    with caplog.at_level(logging.WARNING):
        assert prepared(source).root == root and (root / "fork.o").exists() and caplog.records == []
        subprocess.run(["make", "-s", "-C", root, "modules_prepare"], check=True)
        assert "stray-release" in header.read_text()
        assert prepared(source).root == root
    assert "6.1.0-ours" in header.read_text() and not (root / "fork.o").exists()
    (record,) = caplog.records
    assert "was changed (include/generated/utsrelease.h): making it anew" in record.getMessage()


@pytest.mark.parametrize(("name", "lists"), [("lib/more.mk", True), ("lib/Kbuild.extra", True), ("lib/mk.c", False)])
def test_lists_of_objects_go_with_what_makes_them(source: Path, name: str, lists: bool) -> None:
    """A copy of a directory follows it; what is included by a makefile lists objects, too."""
    (source / "lib").mkdir()
    (source / name).write_text("# before")
    kept = prepared(source).root / FOLDERS / "lib.db"
    kept.parent.mkdir()
    kept.write_text("as it was")
    (source / name).write_text("# behind it")
    prepared(source)
    assert kept.exists() is not lists


def packed(source: Path) -> Path:
    """The same as an archive, whose tree is looked at when it is asked for."""
    archive = source.with_suffix(".tar")
    subprocess.run(["tar", "-C", source.parent, "-cf", archive, source.name], check=True)
    return archive


def test_what_an_interruption_left_is_no_tree(source: Path) -> None:
    """Of an archive that cannot be unpacked nothing is left; what a killed run left is made anew."""
    (source / "large.c").write_bytes(os.urandom(1 << 22))
    archive = packed(source)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ToolError, match="tar failed"):
        prepared(archive)
    assert not any((source.parent / "cache/source").iterdir())
    archive.write_bytes(whole)
    root = prepared(archive).root
    (root / STAMP).unlink()
    (root / "half.c").write_text("half of")
    (root / "Kconfig").unlink()
    assert prepared(archive).root == root
    assert (root / "Kconfig").exists() and not (root / "half.c").exists()


def test_one_file_is_enough_where_no_more_is_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole tree is looked at once, when it is asked for; each file that is read before, by itself."""
    for name in ("kernel/fork.c", "kernel/exit.c", "aside.c"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("text")
    os.symlink("kernel", source / "link")
    looked: list[Path] = []

    def look(root: Path) -> list[str]:
        looked.append(root)
        return disturbed(root)

    monkeypatch.setattr(tree_state, "disturbed", look)
    archive = packed(source)
    place = prepared(archive).place
    tree = prepared(archive)
    with tree.in_use(lazily=True):
        for name in ("kernel/fork.c", "./kernel/../kernel/fork.c", "link/fork.c", "absent.c", ".config.old"):
            tree.file(name)
    assert looked == []
    (place / "kernel/exit.c").write_text("another")
    for name in ("kernel/exit.c", "link/exit.c", ""):
        with tree.in_use(lazily=True), pytest.raises(DisturbedError, match=r"kernel/exit\.c"):
            tree.file(name) if name else tree.root
    (place / "kernel/exit.c").unlink()
    with tree.in_use(lazily=True), pytest.raises(DisturbedError, match=r"kernel/exit\.c"):
        tree.file("kernel/exit.c")
    with tree.in_use():  # it is made anew before
        assert tree.file("kernel/exit.c").read_text() == "text" and tree.root == place
    count = len(looked)
    tree.file("aside.c")
    assert tree.root == place and len(looked) == count


def use(archive: str, began: str, go: str) -> str:
    """One of two processes: it finds the tree disturbed while both use it, and what it then reads."""
    tree = prepared(Path(archive))
    with tree.in_use(lazily=True):
        Path(began).touch()
        while not Path(go).exists():
            time.sleep(0.01)
        with pytest.raises(DisturbedError):
            tree.root  # noqa: B018
    with tree.in_use():
        return (tree.root / "Makefile").read_text()


def test_two_processes_that_find_it_make_it_anew_once(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    archive = packed(source)
    root = prepared(archive).root
    (root / "Makefile").write_text("all:\n")
    began, go = [source.parent / f"began{number}" for number in range(2)], source.parent / "go"
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(use, str(archive), str(path), str(go)) for path in began]
        while not all(path.exists() for path in began):
            assert not any(process.done() for process in running)
            time.sleep(0.01)
        go.touch()
        assert [process.result(timeout=60) for process in running] == [MAKEFILE] * 2
    assert disturbed(root) == [] and capfd.readouterr().err.count("making it anew") == 1


def test_a_change_of_the_directory_does_not_hide_it(source: Path) -> None:
    root = prepared(source).root
    (root / "Makefile").write_text("all:\n")
    (source / "new.c").write_text("")
    assert prepared(source).root == root
    assert (root / "Makefile").read_text() == MAKEFILE and (root / "new.c").exists()

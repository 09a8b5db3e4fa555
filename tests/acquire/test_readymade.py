"""What the distribution's build generated is taken where it was made for that configuration, compiler and assembler."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from builder.acquire import apt
from builder.acquire.packages import cached_kernel, fetch_kernel, kernel_config, kernel_groups, kernel_version
from builder.acquire.preparing import PROGRAMS, config_drift, prepare
from builder.acquire.readymade import OBJTOOL, READYMADE, fetch_readymade
from builder.acquire.source import fetch_source
from builder.acquire.toolchain import Compiler, read_config
from tests.conftest import need

MAKEFILE = """\
.PHONY: scripts archscripts tools/objtool
SAY = @echo $@ >> said
olddefconfig scripts archscripts tools/objtool:
\t$(SAY)
modules_prepare:
\t$(SAY)
\tmkdir -p include/generated
\techo '#define UTS_RELEASE "$(KERNELRELEASE)"' > include/generated/utsrelease.h
kernelversion:
\t@echo 6.1.0
"""
CONFIG = 'CONFIG_CC_VERSION_TEXT="gcc (Mini) 1"\nCONFIG_AS_VERSION=24000\nCONFIG_SMP=y\n'
RUNS = "#!/bin/sh\necho ' Usage: objtool' >&2\nexit 129\n"
COMPILER = Compiler(command="gcc", version="gcc (Mini) 1", expected="gcc (Mini) 1")
ALL_MADE = ["olddefconfig", "modules_prepare"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An unpacked source with what is ready-made of it."""
    need(*PROGRAMS)
    files = {
        "Makefile": MAKEFILE,
        "scripts/as-version.sh": "echo GNU 24000\n",
        ".bespoke/config": CONFIG,
        f"{READYMADE}/.config": f'{CONFIG}CONFIG_BUILD_SALT="of the build"\n',
        f"{READYMADE}/include/generated/utsrelease.h": '#define UTS_RELEASE "6.1.0-ours"\n',
        f"{READYMADE}/include/config/auto.conf": CONFIG,
        f"{READYMADE}/{OBJTOOL}": RUNS,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / READYMADE / OBJTOOL).chmod(0o755)
    return tmp_path


def said(root: Path, compiler: Compiler = COMPILER) -> list[str]:
    """What make was told to make."""
    prepare(root, "6.1.0-ours", compiler)
    return (root / "said").read_text().split()


def test_what_fits_is_taken(root: Path) -> None:
    assert sorted(said(root)) == ["archscripts", "scripts"]
    assert (root / "include/config/auto.conf").read_text() == CONFIG
    assert (root / OBJTOOL).read_text() == RUNS


@pytest.mark.parametrize(
    "text", ["#!/bin/sh\necho no such library >&2\nexit 127\n", "#!/no/loader\n", "\x7fELF of another machine"],
    ids=["no library", "no loader", "another machine's"],
)  # fmt: skip
def test_an_objtool_that_does_not_run_here_is_made(root: Path, text: str) -> None:
    (root / READYMADE / OBJTOOL).write_text(text)
    assert sorted(said(root)) == ["archscripts", "scripts", "tools/objtool"]  # at the same time
    assert not (root / OBJTOOL).exists() and (root / "include/config/auto.conf").exists()


@pytest.mark.parametrize("other", ["configuration", "compiler", "assembler", "assembler that fails", "none told"])
def test_what_was_made_for_another_is_left(root: Path, other: str) -> None:
    compiler = COMPILER
    if other == "configuration":
        (root / READYMADE / ".config").write_text(CONFIG.replace("SMP=y", "SMP=n"))
    elif other == "compiler":
        compiler = replace(COMPILER, version="gcc (Mini) 2")
    elif other == "assembler":
        (root / "scripts/as-version.sh").write_text("echo GNU 23502\n")
    elif other == "assembler that fails":
        (root / "scripts/as-version.sh").write_text("echo too old >&2; exit 1\n")
    else:
        (root / "scripts/as-version.sh").unlink()
    assert said(root, compiler) == ALL_MADE
    assert not (root / "include/config").exists() and not (root / OBJTOOL).exists()


@pytest.mark.kernel
@pytest.mark.slow
def test_the_distribution_has_it(
    release_61: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that nobody needs an image to configure its source; of another version there is none, and a note says so."""
    kernel = fetch_kernel(release_61)
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path))
    version = kernel_version(release_61)
    config = kernel_config(release_61, version)
    assert cached_kernel(release_61) is None and version == kernel.version
    assert config_drift(read_config(kernel.config), read_config(config)) == []
    for name in ("include/generated/asm-offsets.h", "include/config/kernel.release"):
        assert (config.parent / name).stat().st_size
    builds = [package.version for package in apt.offered("linux-kbuild-6.1")]
    assert (config.parent / OBJTOOL).exists() == (version in builds)
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        assert kernel_config(release_61, version) == config
    with caplog.at_level(logging.INFO, logger="bespoke"):
        assert fetch_readymade(release_61, "6.1.1-1", kernel_groups(release_61)) is None
    assert "version 6.1.1-1 is no longer offered" in caplog.text


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.long
def test_objects_beside_what_a_program_of_the_machine_makes(release_7: str) -> None:
    """Where that program is not made, make names no object of the vDSO, and none of the folder is part of anything."""
    made = fetch_source(release_7).objects_in(["arch/x86/entry"])["arch/x86/entry"]
    with made:
        assert {command.owners for command in made.of_source("arch/x86/entry/vdso/vma.c")} == {("vmlinux",)}
        assert made.of_source("arch/x86/entry/vdso/vdso64/vgetcpu.c")[0].owners == ()

"""The compiler must be the one that built the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.acquire.preparing import config_drift
from builder.acquire.toolchain import banner_compiler, find_compiler, read_config
from builder.acquire.tools import clean_environment, need, run
from builder.errors import Allowed, InputError, RefusedError, ToolError, UnknownError

BANNER = (
    "Linux version 6.1.0-50-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, "
    "GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-06-19)"
)


def program(folder: Path, name: str, version: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)


@pytest.fixture
def bin_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def config(text: str) -> dict[str, str]:
    return {"CONFIG_CC_VERSION_TEXT": text, "CONFIG_CC_IS_GCC": "y", "CONFIG_GCC_VERSION": "120200"}


def test_the_same_version_under_another_name(bin_only: Path) -> None:
    program(bin_only, "gcc", "gcc (Debian 14) 14.1.0")
    program(bin_only, "gcc-12", "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0")
    found = find_compiler(config("x86_64-linux-gnu-gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"))
    assert found.command == "gcc-12" and found.same


def test_another_version_is_refused_unless_allowed(bin_only: Path) -> None:
    program(bin_only, "gcc", "gcc (Debian 14) 14.1.0")
    wanted = config("gcc-12 (Debian 12.2.0-14) 12.2.0")
    with pytest.raises(RefusedError) as caught:
        find_compiler(wanted)
    (refusal,) = caught.value.refusals
    assert refusal.code == "compiler-differs" and "12.2.0" in refusal.message and "14.1.0" in refusal.message
    for text in ("compiler-differs:gcc", "compiler-differs:*"):
        assert not find_compiler(wanted, Allowed.parse([text])).same
    with pytest.raises(RefusedError):
        find_compiler(wanted, Allowed.parse(["compiler-differs:gcc-13"]))


def test_no_compiler_names_its_package(bin_only: Path) -> None:
    with pytest.raises(ToolError, match="apt-get install gcc-12"):
        find_compiler(config("gcc-12 (Debian 12.2.0-14) 12.2.0"))


def test_clang_kernels_are_named(bin_only: Path) -> None:
    with pytest.raises(UnknownError, match="clang"):
        find_compiler({"CONFIG_CC_VERSION_TEXT": "clang version 16", "CONFIG_CC_IS_CLANG": "y"})


def test_banner() -> None:
    assert banner_compiler(BANNER) == "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
    with pytest.raises(InputError, match="no compiler"):
        banner_compiler("Linux")


def test_config_is_read_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="text"\nCONFIG_D=7\n')
    assert read_config(path) == {"CONFIG_A": "y", "CONFIG_C": "text", "CONFIG_D": "7"}
    assert config_drift({"CONFIG_A": "y", "CONFIG_E": "m"}, {"CONFIG_B": "y", "CONFIG_E": "y"}) == [
        "CONFIG_A: y -> n",
        "CONFIG_B: n -> y",
        "CONFIG_E: m -> y",
    ]
    assert config_drift({}, {"CONFIG_MODULE_SIG_KEY": "x", "CONFIG_BUILD_SALT": ""}) == []
    path.write_text("ELF")
    with pytest.raises(InputError, match="no CONFIG_ line"):
        read_config(path)


def test_a_missing_program_names_its_package(bin_only: Path) -> None:
    with pytest.raises(ToolError, match="apt-get install binutils"):
        run(["as", "--version"])
    with pytest.raises(ToolError, match="apt-get install bison flex xz-utils"):
        need(["flex", "xz", "bison"], purpose="preparing")


def test_a_failing_program_tells_its_first_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"sh failed \(exit status 3\): an error here \| more"):
        run(["sh", "-c", "echo noise >&2; echo an error here >&2; echo more >&2; exit 3"])


def test_a_program_that_hangs_is_ended() -> None:
    mine = f"31.{os.getpid()}"
    with pytest.raises(ToolError, match="did not end"):
        run(["sh", "-c", f"sleep {mine} & wait"], timeout=0.2)
    assert [pid for pid in os.listdir("/proc") if pid.isdigit() and mine.encode() in command_line(pid)] == []


def command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended since it was listed
        return b""


def test_a_make_around_us_does_not_steer_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "KCFLAGS", "ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT", "CFLAGS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HOME", "/h")
    environment = clean_environment()
    assert environment["HOME"] == "/h" and environment["LC_ALL"] == "C"
    assert not {"MAKEFLAGS", "KCFLAGS", "ARCH", "CROSS_COMPILE", "KBUILD_OUTPUT", "CFLAGS"} & environment.keys()

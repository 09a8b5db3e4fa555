"""Other suites than the machine's, and what comes from them: packages in parts, a compiler that is run from the cache.

Of builder/acquire/suites.py, builder/acquire/apt.py, builder/acquire/packages.py, builder/acquire/toolset.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from builder.acquire import apt, packages, suites, toolset
from builder.acquire.apt import Package, parts
from builder.acquire.cache import cache_path
from builder.acquire.packages import fetch_kernel
from builder.acquire.source import SourceTree, accepted
from builder.acquire.suites import OWN, Group, group_of, groups_for
from builder.acquire.tools import run
from builder.binary.kernel import Kernel
from builder.errors import Allowed, InputError, RefusedError, ToolError


@pytest.mark.parametrize(
    ("suite", "group"),
    [("trixie", "trixie"), ("trixie-backports", "trixie"), ("bookworm-security", "bookworm"),
     ("bookworm-proposed-updates", "bookworm"), ("sid", "sid"), ("experimental", "experimental")],
)  # fmt: skip
def test_a_suite_is_asked_with_its_release(suite: str, group: str) -> None:
    assert group_of(suite) == Group(group) and suite in group_of(suite).suites


@pytest.mark.parametrize("suite", ["", "trixie-", "sid-security", "woody", "trixie/main", "../x"])
def test_an_unknown_suite_is_named(suite: str) -> None:
    with pytest.raises(InputError, match="known are bullseye, bookworm") as caught:
        group_of(suite)
    assert str(caught.value).startswith(suite)


@pytest.mark.parametrize(
    ("release", "names"),
    [("6.12.94+deb13-amd64", ["trixie", ""]), ("6.1.0-0.deb11.48-amd64", ["bullseye", ""]),
     ("7.2.13+deb14-cloud-amd64", ["sid", "forky", ""]), ("6.12.117+deb12-amd64", ["", "bookworm"]),
     ("6.1.0-50-amd64", ["", "experimental", "sid", "forky", "trixie", "bookworm", "bullseye"]),
     ("9.1.2+deb99-amd64", [""])],
)  # fmt: skip
def test_where_a_release_may_come_from(monkeypatch: pytest.MonkeyPatch, release: str, names: list[str]) -> None:
    """On a bookworm: what its name says, and the machine's own suites."""
    monkeypatch.setattr(suites, "configured", lambda: ["bookworm", "bookworm-security"])
    assert [group.name for group in groups_for(release)] == names


INDEX = {
    "thing-image": "kmod, thing-base (= 1), thing-binary (= 1) | thing-unsigned (= 1), thing-common (= 2)",
    "thing-base": "libc6 (>= 2.36)",
    "thing-unsigned": "thing-modules (= 1), thing-base (= 1)",
    "thing-modules": "",
}


def test_a_package_and_its_parts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Those that it depends on in its own version; of alternatives the one that is there; what is gone is named."""

    def show(*names: str, group: Group) -> list[Package]:
        return [Package(name, "1", "all", "", 0, INDEX[name], group) for name in names if name in INDEX]

    monkeypatch.setattr(apt, "_show", show)
    (image,) = show("thing-image", group=Group("sid"))
    found = {part.name: part.group.name for part in parts(image)}
    assert found == {"thing-base": "sid", "thing-unsigned": "sid", "thing-modules": "sid"} and not caplog.records
    gone = replace(image, depends="thing-config (= 1), thing-base (= 1)")
    assert [part.name for part in parts(gone)] == ["thing-base"]
    assert "is without thing-config, which is no longer offered" in caplog.text


def test_programs_are_put_behind_their_own_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own `true` and `sh` with a copy of its C library; what is no program stays as it is."""
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    library = Path("/lib/x86_64-linux-gnu/libc.so.6")
    if not library.is_file():
        pytest.skip("no C library where Debian has it")
    monkeypatch.setattr(apt, "lookup", lambda name, version, groups: Package(name, version, "all", "", 0, ""))
    monkeypatch.setattr(apt, "closure", lambda specs, group: [Package("tool", "1", "all", "", 0, "")])

    def unpack(found: list[Package], root: Path) -> None:
        for name in ("usr/bin", "usr/lib/x86_64-linux-gnu"):
            (root / name).mkdir(parents=True)
        libraries = root / "usr/lib/x86_64-linux-gnu"
        shutil.copy(library, libraries)
        # As Debian 11 has it: the loader's name is a link.
        shutil.copy(library.parent / "ld-linux-x86-64.so.2", libraries / "ld-2.31.so")
        (libraries / "ld-linux-x86-64.so.2").symlink_to("ld-2.31.so")
        shutil.copy("/usr/bin/env", root / "usr/bin/tool")
        shutil.copy("/bin/dash", root / "usr/bin/named")
        (root / "usr/bin/script").write_text("#!/bin/sh\nexit 3\n")

    monkeypatch.setattr(apt, "unpack_all", unpack)
    found = toolset.fetch_compiler("tool", "1", (OWN,))
    root = cache_path("toolsets", "tool_1")
    said = dict(line.partition("=")[::2] for line in run([found.command]).splitlines())
    assert said["PATH"] == f"{root}/usr/bin:{os.environ['PATH']}" and found.packages == ("tool=1",)
    assert (root / "usr/bin/script").read_text().startswith("#!/bin/sh\nexit 3")
    # Its own name is the script's: some programs start others by it.
    named = root / "usr/bin/named"
    assert run([named, "-c", "echo $0"]).strip() == str(named)
    # The loader is the copy's own: without it nothing runs.
    (root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2").unlink()
    with pytest.raises(Exception, match="ld-linux-x86-64"):
        run([found.command])


SOURCES = """Package: linux
Binary: linux-thing
Version: 1.2-3
Directory: pool
Files:
 00000000000000000000000000000000 7 linux_1.2-3.dsc
Checksums-Sha256:
 {zeros} 7 linux_1.2-3.dsc
 {sum} 7 linux_1.2-3.debian.tar.xz
 {zeros} 9 linux_1.2.orig.tar.xz
"""


def test_a_file_of_a_source_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its ending, verified; one that the archive lists and does not serve is named."""
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "archive"
    (place / "pool").mkdir(parents=True)
    (place / "pool/linux_1.2-3.debian.tar.xz").write_text("patches")
    (place / "Sources").write_text(SOURCES.format(zeros="0" * 64, sum=hashlib.sha256(b"patches").hexdigest()))
    monkeypatch.setattr(suites, "_line", lambda suite, source: f"deb-src [trusted=yes] file:{place} ./")
    group = Group("sid")
    found = apt.fetch_source_file("linux", "1.2-3", ".debian.tar.xz", group, tmp_path)
    assert found.read_text() == "patches"
    with pytest.raises(ToolError, match=r"^linux_1\.2\.orig\.tar\.xz of the source package, which sid lists, cannot"):
        apt.fetch_source_file("linux", "1.2-3", ".orig.tar.xz", group, tmp_path)
    with pytest.raises(ToolError, match=r"linux 1\.2-3: has no file that ends in \.diff"):
        apt.fetch_source_file("linux", "1.2-3", ".diff", group, tmp_path)
    with pytest.raises(ToolError, match=r"the source package linux 1\.2-4 cannot be fetched"):
        apt.fetch_source_file("linux", "1.2-4", ".debian.tar.xz", group, tmp_path)


def test_what_apt_has_read_of_a_group_stays_of_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again where the list of what is installed, which is empty, is newer."""
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path))
    suites.private(Group("sid"))
    status = Group("sid").folder / "status"
    os.utime(status, (1, 1))
    suites.private(Group("sid"))
    assert status.stat().st_mtime == 1


@pytest.mark.parametrize(("reason", "helps"), [("404  Not Found [IP: ::1 80]", "another release of the series"),
                                               ("Could not resolve 'host'", "with a network once")])  # fmt: skip
def test_what_helps_where_something_cannot_be_fetched(reason: str, helps: str) -> None:
    said = f"apt-helper failed (exit status 100): E: Failed to fetch http://host/linux.tar.xz  {reason} | E: Failed"
    with pytest.raises(ToolError) as caught, suites.fetching("linux.tar.xz"):
        raise ToolError(said)
    assert caught.value.message.startswith(f"linux.tar.xz cannot be fetched: {reason}; ")
    assert helps in caught.value.message and "http:" not in caught.value.message


def test_headers_of_every_layout(tmp_path: Path) -> None:
    """Real-time kernels have common headers of their own; those of 7.2 name their output directory."""
    for name in ("linux-headers-7.2-rt-amd64", "linux-headers-7.2-common-rt"):
        (tmp_path / "usr/src" / name).mkdir(parents=True)
        (tmp_path / "usr/src" / name / "Makefile").write_text("all:\n\t@echo made in $(notdir $(KBUILD_OUTPUT))\n")
    build = tmp_path / "usr/src/linux-headers-7.2-rt-amd64"
    text = "KBUILD_OUTPUT=/usr/src/linux-headers-7.2-rt-amd64\ninclude /usr/src/linux-headers-7.2-common-rt/Makefile\n"
    (build / "Makefile").write_text(text)
    packages._make_relative(tmp_path, build)
    found = packages._headers_tree("7.2-rt-amd64", "1", tmp_path)
    assert found.common.name == "linux-headers-7.2-common-rt"
    assert run(["make", "-s", "-C", found.build]) == "made in linux-headers-7.2-rt-amd64\n"
    (build / "Makefile").write_text("include /elsewhere/Makefile\n")
    with pytest.raises(ToolError, match="absolute path"):
        packages._make_relative(tmp_path, build)


def test_a_configuration_that_drifts_is_refused_by_option(tree: SourceTree) -> None:
    """config-drift, before anything is compiled."""
    drifted = replace(tree, drift=("CONFIG_HZ: 250 -> 1000", "CONFIG_PREEMPT_RT: y -> n"))
    with pytest.raises(RefusedError) as caught:
        accepted(drifted, Allowed.parse(["config-drift:CONFIG_HZ"]))
    (refusal,) = caught.value.refusals
    assert (refusal.code, refusal.symbol) == ("config-drift", "CONFIG_PREEMPT_RT") and "y -> n" in refusal.message
    assert accepted(drifted, Allowed.parse(["config-drift:*"])) is drifted
    assert accepted(tree, Allowed.parse([])) is tree


@pytest.mark.kernel
def test_a_kernel_in_parts(release_7: str) -> None:
    """Image, configuration and modules of the newest kernel are several packages, unpacked as one."""
    kernel = fetch_kernel(release_7)
    assert kernel.image == kernel.modules / "vmlinuz" and kernel.config == kernel.modules / "config"
    assert (kernel.root / ".package").read_text().split()[3] == "sid"
    opened = Kernel.open(kernel.image)
    assert opened.release == release_7 and opened.modules_root == kernel.modules
    assert opened.find_module("loop") is not None and packages.kernel_groups(release_7)[0] == Group("sid")

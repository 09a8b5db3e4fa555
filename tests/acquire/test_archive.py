"""An archive with newer packages than a kernel's, as one is a while after a release: what it dropped, what it kept."""

from __future__ import annotations

import hashlib
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.acquire import apt, suites
from builder.acquire.packages import cached_kernel
from builder.acquire.preparing import PROGRAMS
from builder.acquire.readymade import OBJTOOL, fetch_readymade
from builder.acquire.source import fetch_source
from builder.acquire.suites import OWN
from builder.errors import InputError
from tests.acquire.test_readymade import CONFIG, MAKEFILE
from tests.conftest import need

RELEASE = "6.1.0-0-mini"
HEADERS = f"linux-headers-{RELEASE}"
BUILD = f"usr/src/{HEADERS}"
GENERATED = {
    f"{BUILD}/.config": "CONFIG_MINI=y\n",
    f"{BUILD}/include/config/auto.conf": 'CONFIG_MINI=y\nCONFIG_MODULE_SIG_KEY="gone.pem"\n',
    f"{BUILD}/include/config/kernel.release": f"{RELEASE}\n",
    f"{BUILD}/include/generated/mini.h": "#define MINI 1\n",
    f"{BUILD}/arch/x86/include/generated/asm/mini.h": "#define MINI 2\n",
}


class Archive:
    """Packages in a folder, which apt is configured with; nothing of the machine's own is asked or changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "apt.conf"
        for folder in ("pool", "lists/partial", "archives/partial"):
            (root / folder).mkdir(parents=True)
        (root / "status").touch()
        (root / "sources.list").write_text(f"deb [trusted=yes] file:{root}/pool ./\n")
        pairs = {
            "Etc::main": "-",
            "Etc::parts": "-",
            "Etc::sourcelist": "sources.list",
            "Etc::sourceparts": "-",
            "State::lists": "lists",
            "State::status": "status",
            "Cache::archives": "archives",
        }
        words = [f'Dir::{key} "{root / name}";\n' for key, name in pairs.items()]
        self.configuration.write_text("".join([*words, 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n']))

    def add(self, name: str, version: str, files: dict[str, str], depends: str = "") -> None:
        made = self.root / "made" / f"{name}_{version}"
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: M <m@mini>\nDescription: mini\n"
        control += f"Depends: {depends}\n" if depends else ""
        for file, text in {**files, "DEBIAN/control": control}.items():
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            (made / file).write_text(text)
        deb = self.root / "pool" / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", made, deb], check=True, capture_output=True)
        self._list()

    def drop(self, name: str, version: str) -> None:
        (self.root / "pool" / f"{name}_{version}_all.deb").unlink()
        self._list()

    def _list(self) -> None:
        stanzas = []
        for deb in sorted((self.root / "pool").glob("*.deb")):
            fields = subprocess.run(["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True).stdout
            found = hashlib.sha256(deb.read_bytes()).hexdigest()
            stanzas.append(f"{fields}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {found}\n")
        (self.root / "pool/Packages").write_text("\n".join(stanzas))
        subprocess.run(["apt-get", "update"], check=True, capture_output=True, env={
            "APT_CONFIG": str(self.configuration), "PATH": "/usr/bin:/bin"})  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    need("apt-get", "dpkg-deb")
    suites._keeps_nothing.cache_clear()
    found = Archive(tmp_path / "archive")
    monkeypatch.setenv("APT_CONFIG", str(found.configuration))
    found.add(HEADERS, "6.1.1-1", GENERATED, "linux-kbuild-6.1 (>= 6.1.1-1)")
    yield found
    suites._keeps_nothing.cache_clear()


def add_kbuild(archive: Archive, version: str) -> None:
    archive.add("linux-kbuild-6.1", version, {f"usr/lib/linux-kbuild-6.1/{OBJTOOL}": f"#!/bin/sh\necho {version}\n"})


def test_headers_are_taken_with_the_objtool_of_their_build(archive: Archive) -> None:
    add_kbuild(archive, "6.1.1-1")
    add_kbuild(archive, "6.1.1-2")
    place = fetch_readymade(RELEASE, "6.1.1-1", [OWN])
    assert place is not None
    assert (place / OBJTOOL).read_text().endswith("echo 6.1.1-1\n")
    assert (place / "arch/x86/include/generated/asm/mini.h").read_text() == "#define MINI 2\n"
    assert 'CONFIG_MODULE_SIG_KEY="certs/signing_key.pem"' in (place / "include/config/auto.conf").read_text()


def test_headers_are_taken_where_only_a_newer_objtool_is_offered(
    archive: Archive, caplog: pytest.LogCaptureFixture
) -> None:
    add_kbuild(archive, "6.1.1-2")
    with caplog.at_level(logging.INFO, logger="bespoke"):
        place = fetch_readymade(RELEASE, "6.1.1-1", [OWN])
    assert place is not None and (place / "include/generated/mini.h").exists()
    assert not (place / OBJTOOL).exists()
    assert "objtool is made here: linux-kbuild-6.1: version 6.1.1-1 is no longer offered" in caplog.text


def test_a_version_that_is_offered_no_longer_is_had_from_the_cache(archive: Archive, tmp_path: Path) -> None:
    kept = apt.lookup(HEADERS, "6.1.1-1")
    deb = apt.download(kept)
    archive.drop(HEADERS, "6.1.1-1")
    archive.add(HEADERS, "6.1.1-2", GENERATED)
    assert apt.lookup(HEADERS).version == "6.1.1-2"
    found = apt.lookup(HEADERS, "6.1.1-1")
    assert (found.sha256, found.depends, found.file_name) == (kept.sha256, kept.depends, deb.name)
    apt.unpack_all([found], tmp_path / "there")
    assert (tmp_path / "there" / BUILD / ".config").read_text() == "CONFIG_MINI=y\n"
    deb.write_bytes(deb.read_bytes()[:40])  # what is no package any more is none
    with pytest.raises(InputError, match=r"version 6\.1\.1-1 is no longer offered \(offered: 6\.1\.1-2\)"):
        apt.lookup(HEADERS, "6.1.1-1")


def test_the_source_of_a_kernel_whose_objtool_is_gone(archive: Archive, cache: Path, tmp_path: Path) -> None:
    """It needs no image; later the archive is not asked for what is here."""
    need(*PROGRAMS)
    version = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    config = CONFIG.replace("gcc (Mini) 1", version) + "CONFIG_CC_IS_GCC=y\n"
    utsrelease = f'#define UTS_RELEASE "{RELEASE}"\n'
    generated = {f"{BUILD}/include/generated/utsrelease.h": utsrelease, f"{BUILD}/.config": config}
    add_kbuild(archive, "6.1.1-2")
    archive.drop(HEADERS, "6.1.1-1")
    archive.add(HEADERS, "6.1.1-1", {**GENERATED, **generated}, "linux-kbuild-6.1 (>= 6.1.1-1)")
    archive.add(f"linux-image-{RELEASE}", "6.1.1-1", {})
    top = tmp_path / "linux-source-6.1"
    for name, text in {"Makefile": MAKEFILE, "Kconfig": "", "scripts/as-version.sh": "echo GNU 24000\n"}.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    packed = archive.root / "made/linux-source-6.1_6.1.1-1/usr/src/linux-source-6.1.tar.xz"
    packed.parent.mkdir(parents=True)
    subprocess.run(["tar", "-C", tmp_path, "-cJf", packed, top.name], check=True)
    archive.add("linux-source-6.1", "6.1.1-1", {})
    tree = fetch_source(RELEASE)
    assert sorted((tree.root / "said").read_text().split()) == ["archscripts", "scripts", "tools/objtool"]
    assert (tree.root / "include/generated/mini.h").exists() and tree.drift == ()
    assert cached_kernel(RELEASE) is None
    (cache / "packages/linux-source-6.1_6.1.1-1_all.deb").unlink()
    archive.drop("linux-source-6.1", "6.1.1-1")
    assert fetch_source(RELEASE).root == tree.root


def test_what_apt_reads_is_kept_where_it_is_told_to_keep_nothing(archive: Archive, cache: Path) -> None:
    made = cache / "apt/machine.bin"
    assert [found.version for found in apt.offered(HEADERS)] == ["6.1.1-1"]
    before = made.stat()
    assert [found.version for found in apt.offered(HEADERS)] == ["6.1.1-1"]
    assert made.stat().st_ino == before.st_ino  # read, not made again
    archive.add(HEADERS, "6.1.1-2", GENERATED)
    assert [found.version for found in apt.offered(HEADERS)] == ["6.1.1-2", "6.1.1-1"]  # and never too old
    suites._keeps_nothing.cache_clear()
    kept = f'Dir::Cache::pkgcache "{archive.root}/own.bin"'
    archive.configuration.write_text(archive.configuration.read_text().replace('Dir::Cache::pkgcache ""', kept))
    made.unlink()
    assert apt.offered(HEADERS) and (archive.root / "own.bin").exists() and not made.exists()

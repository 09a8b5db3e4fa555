"""Without a network, and without apt, it is said what is missing and what helps; the words of apt's own say neither."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.acquire import apt
from builder.acquire.packages import fetch_kernel
from builder.errors import MissingToolError, ToolError

HELPS = "with a network once it is, and is in the cache from then on; or name what is here"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """One that is empty, and an archive that cannot be reached."""
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path / "cache"


def test_a_machine_without_apt(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(MissingToolError) as caught:
        fetch_kernel("6.1.0-1-amd64")
    said = str(caught.value)
    assert said.startswith("linux-image-6.1.0-1-amd64 cannot be fetched: apt-cache is not installed")
    assert HELPS in said and "--source DIRECTORY" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="is about what apt-get says")
def test_a_machine_without_a_network(cache: Path) -> None:
    with pytest.raises(ToolError) as caught:
        apt.offered("linux-image-6.1.0-0-none")
    said = str(caught.value)
    assert said.startswith("linux-image-6.1.0-0-none is not here, and the list of packages cannot be fetched: ")
    assert HELPS in said and "apt-get" not in said and "exit status" not in said and "E: " not in said
    assert not (cache / "apt/fetched").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="is about what apt-get says")
def test_a_package_that_cannot_be_downloaded(cache: Path) -> None:
    package = apt.Package("no-such-package", "1.0-1", "amd64", "", 0, "")
    with pytest.raises(ToolError) as caught:
        apt.download(package)
    said = str(caught.value)
    assert said.startswith("no-such-package 1.0-1 ") and HELPS in said and "apt-get" not in said
    assert list((cache / "packages").iterdir()) == []

"""What is distributed: all of it, the same bytes each time, whether built from the tree or from the sdist."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import lacks
from tests.package import ROOT, unpacked


def made(tree: Path, kind: str, out: Path) -> Path:
    """The sdist or the wheel of a tree, by the build back end itself: no index is asked."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_sdist_holds_all_that_is_kept(sdist: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        lacks("this tree is no git checkout")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    kept = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert kept - held == set()
    assert [name for name in held if name.endswith((".o", ".ko", ".pyc"))] == []


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_tree(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    tree = unpacked(sdist, tmp_path / "tree")
    assert made(tree, "wheel", tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_the_wheel_holds_the_package_with_templates_and_codes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        told = archive.read(metadata).decode()
    templates = [path.relative_to(ROOT) for path in (ROOT / "templates").rglob("*") if path.is_file()]
    assert {f"builder/_{path}" for path in templates} <= held
    assert {f"builder/_docs/codes/{path.name}" for path in (ROOT / "docs/codes").iterdir()} <= held
    assert {name for name in held if not name.startswith("builder/")} == set()
    assert "License-Expression: GPL-2.0-or-later\nLicense-File: LICENSE\n" in told

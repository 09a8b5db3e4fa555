"""Which module a function is looked for in: the index of a release's tree, which changes as the tree does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from builder.binary import ObjectFile, write_object
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects

Compiled = Callable[[str], ObjectFile]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "modules"
    (root / "kernel/deep").mkdir(parents=True)
    return root


def defining(tree: Path, *functions: str) -> list[str]:
    """What a process that begins now finds."""
    kernel = SimpleNamespace(modules_root=tree, sha256="0" * 64, release="6.1.0-test")
    return list(Objects(cast(Kernel, kernel)).modules_with(functions))


def module(compiled: Compiled, *functions: str) -> bytes:
    return write_object(compiled("".join(f"int {name}(int x) {{ return x + 1; }}\n" for name in functions)))


def test_modules_are_found_by_all_of_the_functions(tree: Path, compiled: Compiled) -> None:
    (tree / "kernel/one.ko").write_bytes(module(compiled, "f", "g"))
    (tree / "kernel/deep/other-name.ko").write_bytes(module(compiled, "f"))
    assert defining(tree, "f") == ["one", "other_name"]
    assert defining(tree, "f", "g") == ["one"] and defining(tree, "h") == [] and defining(tree) == []


def test_a_module_that_comes_later_is_found(tree: Path, compiled: Compiled) -> None:
    """The folder at the top stays as old as it was: only one below it changes."""
    (tree / "kernel/one.ko").write_bytes(module(compiled, "f"))
    assert defining(tree, "f") == ["one"]
    age = os.stat(tree).st_mtime_ns
    (tree / "kernel/deep/late.ko").write_bytes(module(compiled, "f", "g"))
    assert os.stat(tree).st_mtime_ns == age
    assert defining(tree, "f") == ["late", "one"]
    (tree / "kernel/deep/late.ko").write_bytes(module(compiled, "g"))
    assert defining(tree, "f") == ["one"] and defining(tree, "g") == ["late"]
    (tree / "kernel/one.ko").unlink()
    assert defining(tree, "f") == []


def test_a_module_that_could_not_be_read_is_not_forgotten(tree: Path, compiled: Compiled) -> None:
    whole = module(compiled, "f")
    (tree / "kernel/nowhere.ko").symlink_to(tree / "kernel/deep/gone.ko")
    (tree / "kernel/one.ko").write_bytes(whole[:100])
    assert defining(tree, "f") == []
    (tree / "kernel/one.ko").write_bytes(whole)
    assert defining(tree, "f") == ["one"]

"""Pairs of objects, and which of two trees belong together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.tools import run


@dataclass(frozen=True, slots=True)
class ObjectPair:
    """One object before and after the patch; `owner` is `vmlinux` or the module that it is linked into."""

    path: str
    owner: str
    old: Path
    new: Path


def empty_object(target: Path) -> None:
    """Write the object of a source file that is not there yet. Raises ToolError without GNU `as`."""
    run(["as", "--64", "-o", target, "/dev/null"])


def find_pairs(old: Path, new: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Objects of two trees by relative path: pairs, and paths that only one tree has."""
    first, second = _objects(old), _objects(new)
    pairs = [(name, old / name, new / name) for name in sorted(first & second, key=lambda name: name.split("/"))]
    return pairs, sorted(first ^ second)


def _objects(root: Path) -> set[str]:
    """The relative paths of all objects below `root`; as texts, for a tree has thousands."""
    top = os.path.join(root, "")
    return {
        path.removeprefix(top)
        for folder, _, files in os.walk(root)
        for file in files
        if file.endswith(".o") and os.path.isfile(path := os.path.join(folder, file))
    }

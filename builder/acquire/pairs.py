"""Two trees of objects: which belong together."""

from __future__ import annotations

from pathlib import Path


def find_pairs(old: Path, new: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Objects of two trees by relative path: pairs, and paths that only one tree has."""
    first = {p.relative_to(old).as_posix(): p for p in sorted(old.rglob("*.o")) if p.is_file()}
    second = {p.relative_to(new).as_posix(): p for p in sorted(new.rglob("*.o")) if p.is_file()}
    pairs = [(name, first[name], second[name]) for name in first if name in second]
    return pairs, sorted(first.keys() ^ second.keys())

"""A directory that looks like a source tree with some files changed; the tree itself is not touched.

Everything is a symbolic link into the tree, as high up as possible; only the
directories that hold a changed file are real. A compiler may still reach the
unchanged file through a linked directory (`#include "../x.h"` is resolved
beyond the link), so what it has read is checked: see `escapes`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath


class Shadow:
    """The shadow at `place` of the tree at `root`, where the files `changed` have another content (None: are
    taken away)."""

    def __init__(self, root: Path, place: Path, changed: Mapping[str, bytes | None]) -> None:
        self.root = root
        self.place = place
        self.changed = dict(changed)
        self._real: set[PurePosixPath] = set()
        self._fill(PurePosixPath("."))
        for path in self.changed:
            self.make_real(str(PurePosixPath(path).parent))
        for path, content in self.changed.items():
            target = place / path
            target.unlink(missing_ok=True)
            if content is not None:
                target.write_bytes(content)

    def _fill(self, folder: PurePosixPath) -> None:
        """Make `folder` a real directory with a link for each entry that the tree has there."""
        if folder in self._real:
            return
        here = self.place / folder
        if here.is_symlink():
            here.unlink()
        here.mkdir(exist_ok=True)
        self._real.add(folder)
        self._link(folder)

    def _link(self, folder: PurePosixPath) -> None:
        source = self.root / folder
        for entry in os.scandir(source) if source.is_dir() else ():
            target = self.place / folder / entry.name
            if str(folder / entry.name) not in self.changed and not os.path.lexists(target):
                os.symlink(entry.path, target)

    def refresh(self) -> None:
        """Take in what the tree has gained since (generated files)."""
        for folder in self._real:
            self._link(folder)

    def make_real(self, folder: str) -> None:
        """Make `folder` (a path in the tree, `..` allowed) and all above it real directories."""
        lexical = PurePosixPath(".")
        for part in PurePosixPath(folder).parts:
            if part == "..":
                lexical = lexical.parent
            elif part != ".":
                lexical = lexical / part
                self._fill(lexical)

    def escapes(self, dependencies: Iterable[str]) -> list[str]:
        """Those of the `dependencies` (relative to the shadow) that are a changed file's old version."""
        originals = {str((self.root / path).resolve()) for path in self.changed}
        folders: dict[str, str] = {}  # a thousand files lie in a hundred

        def is_original(name: str) -> bool:
            folder, base = os.path.split(name)
            if folder not in folders:
                folders[folder] = os.path.realpath(self.place / folder)
            path = f"{folders[folder]}/{base}"
            return (os.path.realpath(path) if os.path.islink(path) else path) in originals

        return [name for name in dependencies if is_original(name)]

    def follow(self, dependencies: Iterable[str]) -> None:
        """Make real every directory on the way to the `dependencies`, so that none can escape."""
        for name in {os.path.dirname(name) for name in dependencies if not os.path.isabs(name)}:
            self.make_real(name)

"""The objects of a tree, listed as far as they are asked for.

To list all takes 20 to 50 s of CPU, once for a tree. A patch to a `.c` file asks only how this one is compiled: that
tells its own folder, in a second, where no other makefile can compile it too (see `makers`). Whatever else is asked
of the list, such as who reads a header, has the whole made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType

from builder.acquire import sums
from builder.acquire.cache import clean_name
from builder.acquire.includes import including_sources
from builder.acquire.kbuild import Command, ListedObjects
from builder.acquire.makers import makers
from builder.acquire.readers import read_source_includes
from builder.acquire.source import FOLDERS, INCLUDED, SourceTree


class TreeObjects:
    """The objects of `tree`; what is opened is closed with it."""

    def __init__(self, tree: SourceTree) -> None:
        self._tree = tree
        self._stack = ExitStack()
        self._known: dict[str, list[Command]] = {}

    def __enter__(self) -> TreeObjects:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @cached_property
    def whole(self) -> ListedObjects:
        """All of them."""
        return self._stack.enter_context(self._tree.objects())

    def look_up(self, sources: Iterable[str]) -> None:
        """Find out how the `sources` are compiled by the lists of their folders, unless all is listed, or has to be."""
        paths = sorted(sources)
        if "whole" in self.__dict__ or self._tree.is_listed() or not all(path.endswith(".c") for path in paths):
            return
        found = {path: self._makers(path) for path in paths if self._tree.file(path).is_file()}
        folders = sorted({folder for rows in found.values() for folder in rows or ()})
        opened = {folder: self._stack.enter_context(rows) for folder, rows in self._tree.objects_in(folders).items()}
        for path, rows in found.items():
            commands = {c.object: c for folder in rows or () for c in opened[folder].of_source(path)}
            if commands:
                self._known[path] = [commands[name] for name in sorted(commands)]

    def _makers(self, path: str) -> Sequence[str] | None:
        """As `makers.makers`, kept beside the lists."""
        place = self._tree.place / FOLDERS / f"{clean_name(path.replace('/', '__'))}.json"
        if (known := sums.read_json(place)) is None:
            known = makers(self._tree.root, path) or ()
            sums.keep_json(place, known)
        return known or None

    def of_source(self, source: str) -> list[Command]:
        """As `ListedObjects.of_source`."""
        known = self._known.get(source)
        return known if known is not None else self.whole.of_source(source)

    def is_included(self, source: str) -> bool:
        """Whether another file may include `source`."""
        if source in self._known and os.path.basename(source) not in self._included:
            return False
        return bool(read_source_includes(self._tree, self.whole).including(source))

    @cached_property
    def _included(self) -> frozenset[str]:
        place = self._tree.place / INCLUDED
        known = sums.read_json(place)
        if known is None:
            known = sorted(including_sources(self._tree.root))
            sums.keep_json(place, known)
        return frozenset(known)

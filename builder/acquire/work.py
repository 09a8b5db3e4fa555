"""The compiling of one patch: preprocess what may be concerned, compile the old and the new version.

All threads share one shadow, made when the first of them needs it. What they
read is checked: where a link led past a patched file, the link is replaced by a
real directory and the work is done again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from builder.acquire import sums
from builder.acquire.cache import cache_path
from builder.acquire.compile import (
    Compiled,
    Compiling,
    compile_object,
    generating,
    in_parallel,
    kept,
    object_key,
    preprocess,
    read_dependencies,
)
from builder.acquire.generated import changed_values
from builder.acquire.includes import code_differs
from builder.acquire.kbuild import Command
from builder.acquire.patchfile import refusal_row
from builder.acquire.shadow import Shadow
from builder.acquire.source import SourceTree
from builder.errors import MissingFileError, RefusedError, ToolError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reach:
    """What a patch does to one object by its preprocessed text: the changed files that it `reads`, and
    whether its code may differ."""

    differs: bool
    reads: tuple[str, ...]


class _EscapedError(Exception):
    """A changed file's old version was read."""

    def __init__(self, dependencies: tuple[str, ...]) -> None:
        super().__init__(*dependencies)
        self.dependencies = dependencies


class Work:
    """One patch being compiled; `begin` says where and with which files changed."""

    def __init__(self, tree: SourceTree, how: Compiling) -> None:
        self.tree = tree
        self.how = how
        self._turn = threading.Condition()
        self._readers = self._waiting = 0
        self._shadow: Shadow | None = None

    def begin(self, place: Path, changed: Mapping[str, bytes | None]) -> None:
        """Work below the directory `place` on the tree with `changed` {path: content, None: taken away}."""
        self.place = place
        self.changed = changed
        (place / "listings").mkdir()

    def check_generated(self, shared: Sequence[str]) -> None:
        """Refuse a change to a header that changes what other headers are generated from."""
        if not shared:
            return
        found = self._in_shadow(lambda root: changed_values(self.tree.root, root, self.place, shared, self._accept))
        if found:
            raise RefusedError(
                [
                    refusal_row(
                        "patch-generated-header",
                        source,
                        f"generates {new} and no longer {old}",
                        "leave that change (mostly of a structure's layout) out of the patch",
                    )
                    for source, old, new in found
                ]
            )

    def reach(self, candidates: Sequence[Command]) -> list[Reach]:
        """For each of the candidates what the change does to it."""
        return self._each("preprocess", self._reach, candidates)

    def compile_old(self, commands: Sequence[Command]) -> list[Compiled]:
        """The objects as they are in the tree."""
        return self._each("compile old", self._compile_old, commands)

    def compile_new(self, commands: Sequence[Command]) -> list[Compiled]:
        """The objects as they are with the changed files."""
        return self._each("compile new", self._compile_new, commands)

    def _reach(self, command: Command) -> Reach:
        """What the change does to the object; kept, for preprocessing is what takes the time."""
        verdict = cache_path(f"verdicts/{self.tree.identity}", object_key(self.tree, command, self.changed))
        if (known := sums.read_json(verdict)) is not None:
            differs, *reads = known
            return Reach(differs=bool(differs), reads=tuple(reads))
        found = self._preprocessed(command)
        sums.write_json(verdict, [found.differs, *found.reads])
        return found

    def _preprocessed(self, command: Command) -> Reach:
        listing = self.place / "listings" / f"{hashlib.sha256(command.object.encode()).hexdigest()[:24]}.d"
        old = generating(self.tree, command, lambda: preprocess(command, root=self.tree.root, listing=listing))
        reads = {os.path.normpath(name) for name in read_dependencies(listing)} & self.changed.keys()
        if not reads:
            return Reach(differs=False, reads=())

        def preprocess_new(root: Path) -> bytes:
            text = preprocess(command, root=root, listing=listing)
            self._accept(read_dependencies(listing))
            return text

        new = self._in_shadow(preprocess_new)
        reads |= {os.path.normpath(name) for name in read_dependencies(listing)} & self.changed.keys()
        return Reach(differs=code_differs(old, new), reads=tuple(sorted(reads)))

    def _compile_old(self, command: Command) -> Compiled:
        key = object_key(self.tree, command, {})
        return compile_object(self.tree, command, root=self.tree.root, key=key)

    def _compile_new(self, command: Command) -> Compiled:
        key = object_key(self.tree, command, self.changed)
        before = kept(self.tree, key)
        return before or self._in_shadow(
            lambda root: compile_object(self.tree, command, root=root, key=key, accept=self._accept)
        )

    def _accept(self, dependencies: tuple[str, ...]) -> None:
        if self._shadow is not None and self._shadow.escapes(dependencies):
            raise _EscapedError(dependencies)

    def _in_shadow(self, work: Callable[[Path], T]) -> T:
        """`work(root)` with the shadow as `root`, once more where a link had misled it or a file was generated."""
        with self._turn:
            if self._shadow is None:
                place = self.place / "tree"
                place.mkdir()
                self._shadow = Shadow(self.tree.root, place, self.changed)
        shadow = self._shadow
        refreshed = False
        for _ in range(3):
            try:
                with self._reading():
                    return work(shadow.place)
            except _EscapedError as error:
                with self._alone():
                    shadow.follow(error.dependencies)
            except MissingFileError:
                if refreshed:
                    raise
                refreshed = True
                with self._alone():
                    shadow.refresh()
        raise ToolError("an unpatched file was read instead of the patched one", where=self.tree.root)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """While a compiler reads the shadow no link in it is replaced."""
        with self._turn:
            self._turn.wait_for(lambda: self._waiting == 0)
            self._readers += 1
        try:
            yield
        finally:
            with self._turn:
                self._readers -= 1
                self._turn.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for the compilers that read the shadow, and let none begin meanwhile."""
        with self._turn:
            self._waiting += 1
            try:
                self._turn.wait_for(lambda: self._readers == 0)
                yield
            finally:
                self._waiting -= 1
                self._turn.notify_all()

    def _each(self, what: str, work: Callable[[Command], T], commands: Sequence[Command]) -> list[T]:
        return in_parallel(
            work,
            commands,
            name=lambda command: f"{what} {command.object}",
            jobs=self.how.jobs,
            progress=self.how.progress,
        )

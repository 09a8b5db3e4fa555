"""The compiling of one patch: preprocess what may be concerned, compile the old and the new version.

All threads share one shadow, made when the first of them needs it. What they
read is checked: where a link led past a patched file, the link is replaced by a
real directory and the work is done again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from builder.acquire import sums
from builder.acquire.cache import cache_path, path_of
from builder.acquire.compile import (
    Compiled,
    Compiling,
    compile_object,
    generating,
    in_parallel,
    keep_as,
    kept,
    object_key,
    preprocess,
    read_dependencies,
)
from builder.acquire.generated import Generator, changed_values, tree_generators
from builder.acquire.includes import code_differs
from builder.acquire.kbuild import Command
from builder.acquire.patchfile import refusal_row
from builder.acquire.shadow import Shadow
from builder.acquire.source import SourceTree
from builder.errors import InputError, MissingFileError, RefusedError, ToolError

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
        self._olds: dict[str, threading.Lock] = {}
        self._kept: dict[str, Compiled] = {}

    def begin(self, place: Path, changed: Mapping[str, bytes | None]) -> None:
        """Work below the directory `place` on the tree with `changed` {path: content, None: taken away}."""
        self.place = place
        self.changed = changed
        (place / "listings").mkdir()

    def check_generated(self, shared: Sequence[str]) -> None:
        """Refuse a change to a header that changes what other headers are generated from."""
        texts = tree_generators(self.tree, shared) if shared else []
        if texts and (found := self._changed_values(texts)):
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

    def _changed_values(self, texts: Sequence[Generator]) -> list[tuple[str, str, str]]:
        """As `changed_values` of generated.py; kept by those of the changed files that the texts read."""
        before = frozenset[str]().union(*(text.reads for text in texts))
        reads = [(path, self.changed[path]) for path in sorted(self.changed.keys() & before)]
        sources = [text.source for text in texts]
        verdict = path_of(f"verdicts/{self.tree.identity}", "generated", self.tree.compiler.version, sources, reads)
        known = None if self._come_or_gone else sums.read_json(verdict)
        if known is not None and self.changed.keys().isdisjoint(known["more"]):
            return [(source, old, new) for source, old, new in known["values"]]
        more: set[str] = set()

        def accept(dependencies: tuple[str, ...]) -> None:
            self._accept(dependencies)
            more.update(set(map(os.path.normpath, dependencies)) - before)

        found = self._in_shadow(lambda root: changed_values(self.tree.root, root, self.place, texts, accept))
        if not self._come_or_gone and self.changed.keys().isdisjoint(more):
            sums.write_json(verdict, {"values": found, "more": sorted(more)})
        return found

    def reach(self, candidates: Sequence[Command], announce: Callable[[int], None] = lambda count: None) -> list[Reach]:
        """For each of the candidates what the change does to it; `announce` is told how many are to be preprocessed."""
        found = {command.object: self._known_reach(command) for command in candidates}
        if unknown := [command for command in candidates if found[command.object] is None]:
            announce(len(unknown))
            rows = self._each("preprocess", self._new_reach, unknown)
            found |= {command.object: row for command, row in zip(unknown, rows, strict=True)}
        return [row for command in candidates if (row := found[command.object]) is not None]

    def compile_old(self, commands: Sequence[Command]) -> list[Compiled]:
        """The objects as they are in the tree."""
        return self._each("compile old", self._compile_old, commands)

    def compile_both(
        self, commands: Sequence[Command], added: Sequence[Command] = ()
    ) -> tuple[list[Compiled], list[Compiled]]:
        """The objects as they are in the tree, and as they are with the changed files; both at the same time.

        Those `added` are only in the new version, behind the others.
        """
        sides = {"old": self._compile_old, "new": self._compile_new}
        rows = [(side, command) for command in commands for side in sides]
        rows += [("new", command) for command in added]
        # What was compiled before is found at once: threads would only wait for each other.
        found = {row: before for row in rows if (before := self._known(*row)) is not None}
        absent = [row for row in rows if row not in found]
        made = in_parallel(
            lambda row: sides[row[0]](row[1]),
            absent,
            name=lambda row: f"compile {row[0]} {row[1].object}",
            jobs=self.how.jobs,
            progress=self.how.progress,
        )
        found |= zip(absent, made, strict=True)
        olds, news = ([found[row] for row in rows if row[0] == side] for side in sides)
        return olds, news

    def _known(self, side: str, command: Command) -> Compiled | None:
        """The old or the new object where it has been compiled before."""
        if side == "old":
            return self._found(object_key(self.tree, command, {}))
        return self._found(object_key(self.tree, command, self.changed)) or self._found_of_another(command)

    def _found(self, key: str) -> Compiled | None:
        """As `kept`, which looks into the files, once for each key."""
        if key not in self._kept and (found := kept(self.tree, key)) is not None:
            self._kept[key] = found
        return self._kept.get(key)

    def _known_reach(self, command: Command) -> Reach | None:
        """What the change does to the object, where it is known; kept, for preprocessing is what takes the time."""
        verdict = self._verdict(command)
        if (known := sums.read_json(verdict)) is not None:
            differs, *reads = known
            return Reach(differs=bool(differs), reads=tuple(reads))
        if (found := self._reach_of_another(command)) is not None:
            sums.write_json(verdict, [found.differs, *found.reads])
        return found

    def _new_reach(self, command: Command) -> Reach:
        """The same by preprocessing."""
        found = self._preprocessed(command)
        sums.write_json(self._verdict(command), [found.differs, *found.reads])
        return found

    def _verdict(self, command: Command) -> Path:
        return cache_path(f"verdicts/{self.tree.identity}", object_key(self.tree, command, self.changed))

    def _reach_of_another(self, command: Command) -> Reach | None:
        """The same of another run, of which all changed files that the object reads were the same."""
        before = sums.read_json(self._reads_of(command))
        if before is None or self._come_or_gone:
            return None
        if not self.changed.keys() & set(before):
            return Reach(differs=False, reads=())
        known = sums.read_json(self._narrow_verdict(command, before))
        if known is None or self.changed.keys() & set(known["more"]):
            return None
        return Reach(differs=bool(known["differs"]), reads=tuple(known["reads"]))

    def _reads_of(self, command: Command) -> Path:
        """Where the files are kept that an object's old text is made of."""
        return cache_path(f"reads/{self.tree.identity}", object_key(self.tree, command, {}))

    def _narrow_verdict(self, command: Command, before: Collection[str]) -> Path:
        """Where the verdict on an object is kept by those of the changed files that its old text reads, `before`."""
        reads = {path: self.changed[path] for path in self.changed.keys() & set(before)}
        return cache_path(f"verdicts/{self.tree.identity}", f"{object_key(self.tree, command, reads)}-read")

    @cached_property
    def _come_or_gone(self) -> bool:
        """Whether there are changed files that are new or taken away.

        Such may be found in place of others, which no list of what was read tells.
        """
        return any(text is None or not self.tree.file(path).is_file() for path, text in self.changed.items())

    def _preprocessed(self, command: Command) -> Reach:
        listing = self.place / "listings" / f"{hashlib.sha256(command.object.encode()).hexdigest()[:24]}.d"
        old = generating(self.tree, command, lambda: preprocess(command, root=self.tree.root, listing=listing))
        before = {os.path.normpath(name) for name in read_dependencies(listing)}
        sums.write_json(self._reads_of(command), sorted(before))
        reads = before & self.changed.keys()
        if not reads:
            return Reach(differs=False, reads=())

        def preprocess_new(root: Path) -> bytes:
            text = preprocess(command, root=root, listing=listing)
            self._accept(read_dependencies(listing))
            return text

        new = self._in_shadow(preprocess_new)
        after = {os.path.normpath(name) for name in read_dependencies(listing)}
        more = after - before
        reads |= after & self.changed.keys()
        found = Reach(differs=code_differs(old, new), reads=tuple(sorted(reads)))
        if not self._come_or_gone and not more & self.changed.keys():
            document = {"differs": found.differs, "reads": found.reads, "more": sorted(more)}
            sums.write_json(self._narrow_verdict(command, before), document)
        return found

    def _compile_old(self, command: Command) -> Compiled:
        key = object_key(self.tree, command, {})
        with self._turn:
            turn = self._olds.setdefault(key, threading.Lock())
        with turn:  # who wants it while it is compiled waits
            return self._found(key) or compile_object(self.tree, command, root=self.tree.root, key=key)

    def _compile_new(self, command: Command) -> Compiled:
        """The new object, under a key of all changed files, and under one of those that it reads.

        By the second it is found again when another fix, to other files, has joined the first.
        """
        if (before := self._known("new", command)) is not None:
            return before
        key = object_key(self.tree, command, self.changed)
        if not self.tree.file(command.source).is_file():
            return self._make_new(command, key)
        try:
            made = self._make_new(command, key)
        except MissingFileError:
            self._compile_old(command)  # which generates it
            made = self._make_new(command, key)
        except InputError:
            self._compile_old(command)  # what does not compile without the change either is said of that
            raise
        old = self._compile_old(command)
        narrow = self._narrow_key(command, old)
        if narrow is not None and narrow != key and self._reads_the_same(made, old):
            keep_as(self.tree, made, narrow)
        return made

    def _make_new(self, command: Command, key: str) -> Compiled:
        return self._in_shadow(lambda root: compile_object(self.tree, command, root=root, key=key, accept=self._accept))

    def _found_of_another(self, command: Command) -> Compiled | None:
        """The new object as another run made it, of which all changed files that are read were the same."""
        old = self._found(object_key(self.tree, command, {}))
        narrow = self._narrow_key(command, old) if old is not None else None
        found = self._found(narrow) if narrow is not None else None
        return found if found is not None and old is not None and self._reads_the_same(found, old) else None

    def _narrow_key(self, command: Command, old: Compiled) -> str | None:
        """The key by those of the changed files that the old object reads; None where files have come or gone."""
        if self._come_or_gone:
            return None
        return object_key(self.tree, command, {path: self.changed[path] for path in self._reads(old)})

    def _reads_the_same(self, new: Compiled, old: Compiled) -> bool:
        """Whether the new object reads no changed file but those that the old one reads, by which its key is made."""
        return self._reads(new) <= self._reads(old)

    def _reads(self, made: Compiled) -> set[str]:
        """The changed files that an object was made of; of its thousand files a few have the name of one."""
        paths = (path for path in made.dependencies if path.rpartition("/")[2] in self._names)
        return {os.path.normpath(path) for path in paths} & self.changed.keys()

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(os.path.basename(path) for path in self.changed)

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

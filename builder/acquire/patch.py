"""From a source patch to pairs of objects, old and new, compiling only what the patch can change.

The new version is compiled in a shadow of the prepared tree where the patched
files stand in place of the tree's; the tree is not written to, so whatever
ends a run, the next one finds everything as it was.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from builder.acquire.cache import cache_root, clean_name, scratch, write_whole
from builder.acquire.compile import (
    Compiled,
    Progress,
    compile_object,
    generating,
    in_parallel,
    object_key,
    preprocess,
    read_dependencies,
)
from builder.acquire.generated import changed_values
from builder.acquire.includes import Includes, code_differs
from builder.acquire.kbuild import Command, Objects
from builder.acquire.names import changed_names, uses
from builder.acquire.patchfile import NO_CODE, FileChange, apply_all, judge, read_patch
from builder.acquire.shadow import Shadow
from builder.acquire.source import SourceTree
from builder.errors import Refusal, RefusedError, ToolError, UsageError

log = logging.getLogger("bespoke.acquire")

T = TypeVar("T")

#: more objects than this are not compiled unless asked for
OBJECT_LIMIT = 500

#: for a header that more objects may read than this, the users of what is changed in it are looked for first
NARROW_ABOVE = 60


@dataclass(frozen=True, slots=True)
class ObjectPair:
    """One object before and after the patch; `owner` is `vmlinux` or the module that it is linked into."""

    path: str
    owner: str
    old: Path
    new: Path


@dataclass(frozen=True, slots=True)
class PatchObjects:
    """What a patch makes of a tree.

    `files` are the files that it changes, `considered` the number of objects that
    may read one of them, `pairs` those whose text changes, compiled. `log` is what
    the compiler said.
    """

    tree: SourceTree
    files: tuple[str, ...]
    considered: int
    pairs: tuple[ObjectPair, ...]
    warnings: tuple[Refusal, ...]
    log: Path


class _EscapedError(Exception):
    def __init__(self, dependencies: tuple[str, ...]) -> None:
        super().__init__("a changed file's old version was read")
        self.dependencies = dependencies


def prepare_patch(
    patches: Sequence[Path],
    tree: SourceTree,
    *,
    allow: Collection[str] = (),
    limit: int = OBJECT_LIMIT,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> PatchObjects:
    """Apply `patches` one on top of the other and compile, before and after, each object that they change.

    `allow` holds `CODE:SYMBOL`, such as `patch-makefile:fs/ext4/Makefile`: the
    change to that file is left out. Raises `RefusedError` with all files that
    cannot be followed, `InputError` for a patch that does not fit or compile,
    `UsageError` when a header reaches more than `limit` objects.
    """
    changes = [change for path in patches for change in read_patch(path)]
    followed, warnings = sort_out(changes, allow)
    with tree.in_use():
        return _compiled(patches[0].stem, followed, warnings, tree, allow, limit, _Work(tree, jobs, progress))


def _compiled(
    name: str, changes: Sequence[FileChange], warnings: list[Refusal], tree: SourceTree,
    allow: Collection[str], limit: int, work: _Work,
) -> PatchObjects:
    changed = _changed_files(changes, tree)
    with tree.objects() as objects:
        direct, shared = _split(changed, objects, allow, warnings)
        known = {command.object for command in direct}
        candidates = _candidates(shared, changed, tree, objects, known, limit, warnings)
    considered = len(direct) + len(candidates)
    if considered > limit:
        raise UsageError(f"{considered} objects may read {', '.join(shared)}: more than the limit of {limit},"
                         " which can be raised")
    with scratch("shadow") as place:
        work.open_shadow(place, changed)
        work.check_generated(shared)
        if candidates:
            log.info("preprocessing %d objects that may read %s", len(candidates), ", ".join(shared))
        affected = direct + work.affected(candidates)
        log.info("compiling %d objects, before and after", len(affected))
        old = work.compile_old(affected)
        new = work.compile_new(affected, old)
    key = hashlib.sha256("".join(o.object.parent.name for o in old + new).encode()).hexdigest()[:16]
    log_file = cache_root() / "logs" / f"{clean_name(name)}-{key}.log"
    write_whole(log_file, "".join(o.log.read_text(errors="replace") for o in old + new))
    pairs = tuple(
        ObjectPair(path=os.path.normpath(command.object), owner=owner, old=a.object, new=b.object)
        for command, a, b in zip(affected, old, new, strict=True) for owner in command.owners
    )
    return PatchObjects(tree=tree, files=tuple(sorted(changed)), considered=considered, pairs=pairs,
                        warnings=tuple(warnings), log=log_file)


def sort_out(changes: Iterable[FileChange], allow: Collection[str]) -> tuple[list[FileChange], list[Refusal]]:
    """The changes to follow, and warnings for those that are left out; `RefusedError` for all others."""
    followed: list[FileChange] = []
    warnings: list[Refusal] = []
    refusals: list[Refusal] = []
    for change in changes:
        if NO_CODE.fullmatch(change.path):
            warnings.append(_row("patch-no-code", change.path, "is no part of any object: left out", ""))
        elif (refusal := judge(change)) is None:
            followed.append(change)
        elif f"{refusal.code}:{refusal.symbol}" in allow:
            warnings.append(_row(refusal.code, change.path, "is left out, as accepted", ""))
        else:
            refusals.append(refusal)
    if refusals:
        raise RefusedError(refusals)
    return followed, warnings


def _row(code: str, path: str, what: str, advice: str) -> Refusal:
    return Refusal(code=code, symbol=path, section="", message=f"{path} {what}", advice=advice, fatal=False)


def _changed_files(changes: Iterable[FileChange], tree: SourceTree) -> dict[str, bytes | None]:
    def read(path: str) -> bytes | None:
        try:
            return (tree.root / path).read_bytes()
        except FileNotFoundError:
            return None

    changed = apply_all(changes, read, {})
    return {path: content for path, content in changed.items() if content != read(path)}


def _split(
    changed: Mapping[str, bytes | None], objects: Objects, allow: Collection[str], warnings: list[Refusal]
) -> tuple[list[Command], list[str]]:
    """The objects compiled from a changed file, and the changed files that others include."""
    direct: list[Command] = []
    shared: list[str] = []
    refusals: list[Refusal] = []
    for path in sorted(changed):
        commands = objects.of_source(path)
        direct += (linked := [command for command in commands if command.owners])
        if commands and not linked:
            row = _row("patch-not-linked", path, "is part of nothing that can be patched (boot code, vDSO)",
                       "leave the file out of the patch, or accept that its change is left out")
            (warnings if f"{row.code}:{path}" in allow else refusals).append(row)
        elif not commands:
            shared.append(path)
    if refusals:
        raise RefusedError(refusals)
    return direct, shared


def _candidates(
    shared: Sequence[str], changed: Mapping[str, bytes | None], tree: SourceTree, objects: Objects,
    known: Collection[str], limit: int, warnings: list[Refusal],
) -> list[Command]:
    """Objects outside `known` that may read one of the `shared` files and use what is changed in it."""
    if not shared:
        return []
    includes = Includes.of_tree(tree.root, tree.root / ".bespoke/includes.json")
    linked = objects.linked()
    everywhere = {os.path.normpath(name) for flags in objects.all_flags()
                  for name in re.findall(r"-include (\S+)", flags)}
    names: set[str] = set()
    for path in shared:
        reached = includes.reaching([path])
        here = {name for name, file in linked if file in reached or everywhere & reached}
        if not here:
            what = "is read by no object of this kernel's configuration"
            warnings.append(_row("patch-not-built", path, what, ""))
        if len(here) > NARROW_ABOVE:
            log.info("%d objects may read %s: looking for what is changed in it", len(here), path)
            narrowed = _users(path, changed, tree, includes, {file for _, file in linked}, limit)
            if narrowed is not None:
                here = {name for name, file in linked if name in here and file in narrowed}
        names |= here
    return [objects.of_object(name) for name in sorted(names - set(known))]


def _users(
    path: str, changed: Mapping[str, bytes | None], tree: SourceTree, includes: Includes,
    sources: Collection[str], limit: int,
) -> set[str] | None:
    """Files that may use what is changed in a header; None when that cannot be told by names."""
    content, file = changed[path], tree.root / path
    if content is None or not file.is_file():
        return None
    texts = [raw.decode("utf-8", "surrogateescape") for raw in (file.read_bytes(), content)]
    names = changed_names(*texts)
    if names is None:
        return None
    found = uses(tree.root, names, sources, limit=limit)
    return set(found.sources | includes.reaching(found.spread)) if found is not None else None


class _Work:
    """One patch being compiled: the shadow is shared by all threads and only ever gains real directories."""

    def __init__(self, tree: SourceTree, jobs: int | None, progress: Progress | None) -> None:
        self.tree = tree
        self.jobs = jobs
        self.progress = progress
        self.lock = threading.Lock()

    def open_shadow(self, place: Path, changed: Mapping[str, bytes | None]) -> None:
        """Put the shadow, and what preprocessing leaves, below `place`."""
        self.changed = changed
        self.listings = place / "listings"
        self.listings.mkdir()
        shadow = place / "tree"
        shadow.mkdir()
        self.shadow = Shadow(self.tree.root, shadow, self.changed)

    def check_generated(self, shared: Sequence[str]) -> None:
        """Refuse a change to a header that changes what other headers are generated from."""
        if not shared:
            return
        found = changed_values(self.tree.root, self.shadow.place, self.listings, shared)
        if found:
            raise RefusedError([
                _row("patch-generated-header", source, f"generates {new} and no longer {old}",
                     "leave that change (mostly of a structure's layout) out of the patch")
                for source, old, new in found
            ])

    def affected(self, candidates: Sequence[Command]) -> list[Command]:
        """Those of the candidates whose code the change can reach; assembler among them is refused."""
        verdicts = self._each("preprocess", self._reached, candidates)
        hit = [command for command, verdict in zip(candidates, verdicts, strict=True) if verdict]
        refusals = [_row("patch-assembler", command.source, "is assembler that reads a changed header",
                         "leave that change out of the patch") for command in hit if command.assembler]
        if refusals:
            raise RefusedError(refusals)
        return hit

    def _reached(self, command: Command) -> bool:
        listing = self.listings / f"{hashlib.sha256(command.object.encode()).hexdigest()[:24]}.d"
        old = generating(self.tree, command, lambda: preprocess(command, root=self.tree.root, listing=listing))
        dependencies = read_dependencies(listing)
        if not {os.path.normpath(name) for name in dependencies} & self.changed.keys():
            return False
        with self.lock:
            self.shadow.refresh()
            self.shadow.follow(dependencies)
        new = self._in_shadow(lambda: preprocess(command, root=self.shadow.place, listing=listing),
                              lambda: read_dependencies(listing))
        return code_differs(old, new)

    def _in_shadow(self, work: Callable[[], bytes], dependencies: Callable[[], tuple[str, ...]]) -> bytes:
        result = work()
        if self.shadow.escapes(dependencies()):
            with self.lock:
                self.shadow.follow(dependencies())
            result = work()
            if escaped := self.shadow.escapes(dependencies()):
                raise ToolError(f"the unpatched {escaped[0]} was read")
        return result

    def compile_old(self, commands: Sequence[Command]) -> list[Compiled]:
        """The objects as they are in the tree."""
        def compile_one(command: Command) -> Compiled:
            key = object_key(self.tree, command, {})
            return compile_object(self.tree, command, root=self.tree.root, key=key)

        return self._each("compile old", compile_one, commands)

    def compile_new(self, commands: Sequence[Command], old: Sequence[Compiled]) -> list[Compiled]:
        """The objects as they are with the changed files."""
        self.shadow.refresh()
        if any(not path.endswith(".c") for path in self.changed):
            for compiled in old:
                self.shadow.follow(compiled.dependencies)
        return self._each("compile new", self._compile_new, commands)

    def _compile_new(self, command: Command) -> Compiled:
        key = object_key(self.tree, command, self.changed)

        def accept(dependencies: tuple[str, ...]) -> None:
            if self.shadow.escapes(dependencies):
                raise _EscapedError(dependencies)

        for _ in range(2):
            try:
                return compile_object(self.tree, command, root=self.shadow.place, key=key, accept=accept)
            except _EscapedError as error:
                with self.lock:
                    self.shadow.follow(error.dependencies)
        raise ToolError("an unpatched file was read instead of the patched one", where=command.source)

    def _each(self, what: str, work: Callable[[Command], T], commands: Sequence[Command]) -> list[T]:
        return in_parallel(work, commands, name=lambda command: f"{what} {command.object}",
                           jobs=self.jobs, progress=self.progress)

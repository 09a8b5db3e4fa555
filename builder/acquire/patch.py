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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.cache import cache_root, clean_name, scratch
from builder.acquire.compile import Progress
from builder.acquire.includes import Includes
from builder.acquire.kbuild import Command, Objects
from builder.acquire.names import changed_names, uses
from builder.acquire.patchfile import NO_CODE, FileChange, apply_all, judge, located, read_patch, refusal_row
from builder.acquire.source import SourceTree
from builder.acquire.whole import write_whole
from builder.acquire.work import Work
from builder.errors import NOTHING, Allowed, Refusal, RefusedError, UsageError

log = logging.getLogger("bespoke.acquire")

#: more objects than this are not compiled unless asked for
OBJECT_LIMIT = 500

#: work on more objects than this is announced before it begins, also where no terminal is
LONG_RUN = 20

#: for a header that more objects may read than this, the users of what is changed in it are looked for first
NARROW_ABOVE = 60


@dataclass(frozen=True, slots=True)
class Compiling:
    """How objects are compiled: at most `limit`, `jobs` at once (None: one for each CPU), told to `progress`."""

    limit: int = OBJECT_LIMIT
    jobs: int | None = None
    progress: Progress | None = None


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


def prepare_patch(
    patches: Sequence[Path],
    tree: SourceTree,
    *,
    allowed: Allowed = NOTHING,
    how: Compiling = Compiling(),
) -> PatchObjects:
    """Apply `patches` one on top of the other and compile, before and after, each object that they change.

    With `allowed`, such as `patch-makefile:fs/ext4/Makefile`, the change to that
    file is left out. Raises `RefusedError` with all files that
    cannot be followed, `InputError` for a patch that does not fit or compile,
    `UsageError` when a header reaches more objects than the limit.
    """
    changes = [
        located(change, lambda name: (tree.root / name).exists()) for path in patches for change in read_patch(path)
    ]
    followed, warnings = sort_out(changes, allowed)
    with tree.in_use():
        work = Work(tree, how.jobs, how.progress)
        return _compiled(patches[0].stem, followed, warnings, tree, allowed, how.limit, work)


def _compiled(
    name: str,
    changes: Sequence[FileChange],
    warnings: list[Refusal],
    tree: SourceTree,
    allowed: Allowed,
    limit: int,
    work: Work,
) -> PatchObjects:
    changed = _changed_files(changes, tree)
    with tree.objects() as objects:
        direct, shared = _split(changed, objects, allowed, warnings)
        known = {command.object for command in direct}
        candidates = _candidates(shared, changed, tree, objects, known, limit, warnings)
    considered = len(direct) + len(candidates)
    if considered > limit:
        raise UsageError(
            f"{considered} objects may read {', '.join(shared)}: more than the limit of {limit}, which can be raised"
        )
    with scratch("shadow") as place:
        work.begin(place, changed)
        work.check_generated(shared)
        if candidates:
            _announce(len(candidates), f"that may read {', '.join(shared)}: comparing their preprocessed text")
        affected = direct + work.affected(candidates)
        _announce(len(affected), "to compile, before and after the patch")
        old = work.compile_old(affected)
        new = work.compile_new(affected)
    key = hashlib.sha256("".join(o.object.parent.name for o in old + new).encode()).hexdigest()[:16]
    log_file = cache_root() / "logs" / f"{clean_name(name)}-{key}.log"
    write_whole(log_file, "".join(o.log.read_text(errors="replace") for o in old + new))
    pairs = tuple(
        ObjectPair(path=os.path.normpath(command.object), owner=owner, old=a.object, new=b.object)
        for command, a, b in zip(affected, old, new, strict=True)
        for owner in command.owners
    )
    return PatchObjects(
        tree=tree,
        files=tuple(sorted(changed)),
        considered=considered,
        pairs=pairs,
        warnings=tuple(warnings),
        log=log_file,
    )


def _announce(count: int, what: str) -> None:
    """Say what is about to be done; a long run says so without being asked."""
    log.log(logging.WARNING if count > LONG_RUN else logging.INFO, "%d object%s %s", count, "s" * (count != 1), what)


def sort_out(changes: Iterable[FileChange], allowed: Allowed) -> tuple[list[FileChange], list[Refusal]]:
    """The changes to follow, and warnings for those that are left out; `RefusedError` for all others."""
    followed: list[FileChange] = []
    warnings: list[Refusal] = []
    refusals: list[Refusal] = []
    for change in changes:
        if NO_CODE.fullmatch(change.path):
            warnings.append(refusal_row("patch-no-code", change.path, "is no part of any object: left out", ""))
        elif (refusal := judge(change)) is None:
            followed.append(change)
        elif allowed.covers(refusal):
            warnings.append(refusal_row(refusal.code, change.path, "is left out, as accepted", ""))
        else:
            refusals.append(refusal)
    if refusals:
        raise RefusedError(refusals)
    return followed, warnings


def _changed_files(changes: Iterable[FileChange], tree: SourceTree) -> dict[str, bytes | None]:
    def read(path: str) -> bytes | None:
        try:
            return (tree.root / path).read_bytes()
        except FileNotFoundError:
            return None

    changed = apply_all(changes, read, {})
    return {path: content for path, content in changed.items() if content != read(path)}


def _split(
    changed: Mapping[str, bytes | None], objects: Objects, allowed: Allowed, warnings: list[Refusal]
) -> tuple[list[Command], list[str]]:
    """The objects compiled from a changed file, and the changed files that others include."""
    direct: list[Command] = []
    shared: list[str] = []
    refusals: list[Refusal] = []
    for path in sorted(changed):
        commands = objects.of_source(path)
        direct += (linked := [command for command in commands if command.owners])
        if commands and not linked:
            row = refusal_row(
                "patch-not-linked",
                path,
                "is part of nothing that can be patched (boot code, vDSO)",
                "leave the file out of the patch, or accept that its change is left out",
            )
            (warnings if allowed.covers(row) else refusals).append(row)
        elif not commands:
            shared.append(path)
    if refusals:
        raise RefusedError(refusals)
    return direct, shared


def _candidates(
    shared: Sequence[str],
    changed: Mapping[str, bytes | None],
    tree: SourceTree,
    objects: Objects,
    known: Collection[str],
    limit: int,
    warnings: list[Refusal],
) -> list[Command]:
    """Objects outside `known` that may read one of the `shared` files and use what is changed in it."""
    if not shared:
        return []
    includes = Includes.of_tree(tree.root, tree.root / ".bespoke/includes.json")
    linked = objects.linked()
    everywhere = {
        os.path.normpath(name) for flags in objects.all_flags() for name in re.findall(r"-include (\S+)", flags)
    }
    names: set[str] = set()
    for path in shared:
        reached = includes.reaching([path])
        here = {name for name, file in linked if file in reached or everywhere & reached}
        if not here and not _is_included(path, changed):
            what = "is read by no object of this kernel's configuration"
            warnings.append(refusal_row("patch-not-built", path, what, ""))
        if len(here) > NARROW_ABOVE:
            log.info("%d objects may read %s: looking for what is changed in it", len(here), path)
            narrowed = _users(path, changed, tree, includes, {file for _, file in linked}, limit)
            if narrowed is not None:
                here = {name for name, file in linked if name in here and file in narrowed}
        names |= here
    return [objects.of_object(name) for name in sorted(names - set(known))]


def _is_included(path: str, changed: Mapping[str, bytes | None]) -> bool:
    """Whether another changed file includes `path` (a new header, say): its objects are compiled for that already."""
    name = re.escape(path.rpartition("/")[2].encode())
    line = re.compile(rb"^[ \t]*#[ \t]*include[ \t]*[<\"](?:[^>\"\n]*/)?" + name + rb"[>\"]", re.MULTILINE)
    return any(content is not None and line.search(content) for other, content in changed.items() if other != path)


def _users(
    path: str,
    changed: Mapping[str, bytes | None],
    tree: SourceTree,
    includes: Includes,
    sources: Collection[str],
    limit: int,
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

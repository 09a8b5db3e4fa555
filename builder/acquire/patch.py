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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from builder.acquire.added import Added, take_added
from builder.acquire.cache import cache_root, clean_name, published, scratch
from builder.acquire.compile import AS_USUAL, Compiling
from builder.acquire.kbuild import Command, ListedObjects
from builder.acquire.kit import kit_for
from builder.acquire.listed import TreeObjects
from builder.acquire.pairs import ObjectPair, empty_object
from builder.acquire.patchfile import NO_CODE, FileChange, apply_all, judge, located, read_patch, refusal_row
from builder.acquire.readers import Readers, beyond, find_readers
from builder.acquire.shifts import Shift, shifts_of
from builder.acquire.source import SourceTree
from builder.acquire.whole import write_whole
from builder.acquire.work import Work
from builder.errors import NOTHING, Allowed, Refusal, RefusedError

log = logging.getLogger("bespoke.acquire")

#: work on more objects than this is announced before it begins, also where no terminal is
LONG_RUN = 20

#: so many objects are asked, at most, whether they read a header that none has read yet
PROBES = 40


@dataclass(frozen=True, slots=True)
class PatchObjects:
    """What a patch makes of a tree.

    `files` are the files that it changes, `shifts` how their lines move, `considered` the
    number of objects that may read one of them, `pairs` those whose text changes, compiled.
    `log` is what the compiler said.
    """

    tree: SourceTree
    files: tuple[str, ...]
    shifts: tuple[Shift, ...]
    considered: int
    pairs: tuple[ObjectPair, ...]
    warnings: tuple[Refusal, ...]
    log: Path


def prepare_patch(
    patches: Sequence[Path],
    tree: SourceTree,
    *,
    allowed: Allowed = NOTHING,
    how: Compiling = AS_USUAL,
) -> PatchObjects:
    """Apply `patches` one on top of the other and compile, before and after, each object that they change.

    With `allowed`, such as `patch-makefile:fs/ext4/Makefile`, the change to that
    file is left out. Raises `RefusedError` with all files that
    cannot be followed, that reach no object, or whose users cannot all be looked at (more
    than the limit, say); `InputError` for a patch that does not fit or compile.
    """
    read = [change for path in patches for change in read_patch(path)]
    return tree.using(lambda: _prepared(patches[0].stem, read, tree, allowed, how))


def _prepared(
    name: str, read: Sequence[FileChange], tree: SourceTree, allowed: Allowed, how: Compiling
) -> PatchObjects:
    """The same of what was read, of a tree in use. Raises DisturbedError too."""
    changes = [located(change, lambda path: tree.file(path).exists()) for change in read]
    # Listed only when somebody asks: what is refused by its kind is refused at once.
    with TreeObjects(tree) as objects:

        def is_code(path: str) -> bool:
            return path.endswith((".c", ".h")) and os.path.dirname(path) in beyond(objects.whole)

        is_new = any(change.kind == "added" and change.path.endswith(".c") for change in changes)
        added = take_added(changes, tree, objects.whole) if is_new else Added(tuple(changes), {}, {}, ())
        followed, warnings = sort_out(added.changes, allowed, is_code, also=added.refusals)
        work = Work(tree, how)
        return _compiled(name, followed, warnings, allowed, work, objects, added)


def _compiled(
    name: str,
    changes: Sequence[FileChange],
    warnings: list[Refusal],
    allowed: Allowed,
    work: Work,
    objects: TreeObjects,
    added: Added,
) -> PatchObjects:
    tree, limit = work.tree, work.how.limit
    changed, applied, moved = _changed_files(changes, tree)
    # A file that becomes an object by the patch is another's reader like any; nothing that is there reads it.
    changed |= added.content
    there = {path: content for path, content in changed.items() if path not in added.commands}
    direct, shared, unlinked = _split(there, objects)
    known = {command.object for command in direct}
    absent = tree.complete(objects.whole) if shared else []  # before the include lines are read
    readers = find_readers(shared, changed, tree, objects.whole, limit) if shared else []
    unread = [r.path for r in readers if not r.near and not _is_included(r.path, changed)]
    candidates = _candidates(readers, known)
    many = _too_many(readers, len(direct) + len(candidates), limit) if len(direct) + len(candidates) > limit else []
    unseen = [_not_generated(path, absent) for path in shared if absent]
    warnings = warnings + moved + accepted([*unlinked, *map(_not_built, unread), *many, *unseen], allowed)
    left_out = {row.symbol for row in many}
    candidates = _candidates([r for r in readers if r.path not in left_out], known)
    with scratch("shadow") as place:
        work.begin(place, {**changed, **kit_for(changed, tree.file)})
        work.check_generated(shared)
        commands = [objects.whole.of_object(candidate) for candidate in candidates]
        what = f"that may read {', '.join(shared)}: comparing their preprocessed text"
        verdicts = work.reach(commands, lambda count: _announce(count, what))
        reached = [(c, reach) for c, reach in zip(commands, verdicts, strict=True) if reach.differs]
        warnings += accepted(
            [row for command, reach in reached for row in _not_followed(command, reach.reads)], allowed
        )
        affected = direct + [command for command, _ in reached if command.owners and not command.assembler]
        _announce(len(affected), "to compile, before and after the patch")
        old, new = work.compile_both(affected, list(added.commands.values()))
        read = {path for reach in verdicts for path in reach.reads}
        # A thousand files of each object, mostly the same ones.
        named = frozenset[str]().union(*(made.dependencies for made in old + new)) if readers else ()
        read |= {os.path.normpath(path) for path in named}
        rest = [r for r in readers if r.path not in read and r.path not in unread]
        rows = [_not_built(r.path) for r in rest if not _is_read(r, work, objects.whole)]
        warnings += accepted(rows, allowed)
    key = hashlib.sha256("".join(o.object.parent.name for o in old + new).encode()).hexdigest()[:16]
    log_file = cache_root() / "logs" / f"{clean_name(name)}-{key}.log"
    write_whole(log_file, "".join(o.log.read_text(errors="replace") for o in old + new))
    pairs = tuple(
        ObjectPair(path=os.path.normpath(command.object), owner=owner, old=a.object, new=b.object)
        for command, a, b in zip(affected, old, new, strict=False)
        for owner in command.owners
    )
    pairs += tuple(
        ObjectPair(path=command.object, owner=owner, old=_nothing(), new=made.object)
        for command, made in zip(added.commands.values(), new[len(affected) :], strict=True)
        for owner in command.owners
    )
    return PatchObjects(
        tree=tree,
        files=tuple(sorted(changed)),
        shifts=shifts_of(applied),
        considered=len(direct) + len(candidates),
        pairs=pairs,
        warnings=tuple(warnings),
        log=log_file,
    )


def _nothing() -> Path:
    """The old version of an object that a patch brings."""
    return published("objects", "nothing", lambda place: empty_object(place / "nothing.o")) / "nothing.o"


def patched_files(patches: Sequence[Path], tree: SourceTree) -> dict[str, bytes]:
    """What the files of a tree are with `patches` applied, one on top of the other; those that they change."""
    rows = [located(change, lambda name: tree.file(name).exists()) for path in patches for change in read_patch(path)]
    changed = _changed_files(rows, tree)[0]
    return {path: content for path, content in changed.items() if content is not None}


def _announce(count: int, what: str) -> None:
    """Say what is about to be done; a long run says so without being asked."""
    log.log(logging.WARNING if count > LONG_RUN else logging.INFO, "%d object%s %s", count, "s" * (count != 1), what)


def accepted(rows: Iterable[Refusal], allowed: Allowed) -> list[Refusal]:
    """Warnings for what was accepted by name; `RefusedError` with all others. What is no part of an object
    by its place (documentation, tools) is a warning by itself."""
    warnings: list[Refusal] = []
    refusals: list[Refusal] = []
    for row in dict.fromkeys(rows):
        if row.code == "patch-not-built" and NO_CODE.fullmatch(row.symbol):
            warnings.append(_no_code(row.symbol))
        elif allowed.covers(row):
            warnings.append(replace(row, message=f"{row.message}: left out, as accepted", advice=""))
        else:
            refusals.append(row)
    if refusals:
        raise RefusedError(refusals)
    return warnings


def _no_code(path: str) -> Refusal:
    return refusal_row("patch-no-code", path, "is no part of any object: left out", "")


def sort_out(
    changes: Iterable[FileChange],
    allowed: Allowed,
    is_code: Callable[[str], bool],
    also: Sequence[Refusal] = (),
) -> tuple[list[FileChange], list[Refusal]]:
    """The changes to follow, and warnings for those that are left out; `RefusedError` for all others, and `also`.

    `is_code` tells whether a file that lies where no source does may be one all the same.
    """
    followed: list[FileChange] = []
    warnings: list[Refusal] = []
    refusals: list[Refusal] = list(also)
    for change in changes:
        if NO_CODE.fullmatch(change.path) and not is_code(change.path):
            warnings.append(_no_code(change.path))
        elif (refusal := judge(change)) is None:
            followed.append(change)
        else:
            refusals.append(refusal)
    return followed, warnings + accepted(refusals, allowed)


def _changed_files(
    changes: Iterable[FileChange], tree: SourceTree
) -> tuple[dict[str, bytes], tuple[FileChange, ...], list[Refusal]]:
    """The new content of each file that differs, the changes as they stand in the tree's files, and a warning for
    each hunk that has moved."""

    @cache
    def read(path: str) -> bytes | None:
        try:
            return tree.file(path).read_bytes()
        except FileNotFoundError:
            return None

    applied = apply_all(changes, read)
    moved = [refusal_row("patch-moved", path, f"has moved: {what}", "") for path, what in applied.moved]
    changed = {path: content for path, content in applied.files.items() if content != read(path)}
    return changed, applied.changes, moved


_WITHOUT = "leave the file out of the patch, or accept that its change is left out"
_WITHOUT_USER = "leave that change out of the patch, or accept that this user keeps the old text"


def _split(changed: Mapping[str, bytes | None], objects: TreeObjects) -> tuple[list[Command], list[str], list[Refusal]]:
    """The objects compiled from a changed file, the changed files that others include, and refusals of
    those that something is compiled from that cannot be patched."""
    direct: list[Command] = []
    shared: list[str] = []
    refusals: list[Refusal] = []
    objects.look_up(changed)
    for path in sorted(changed):
        commands = objects.of_source(path)
        direct += (linked := [command for command in commands if command.owners])
        others = [command.object for command in commands if command.unreachable]
        if commands and not linked:
            what = "is part of nothing that can be patched (boot code, vDSO)"
            refusals.append(refusal_row("patch-not-linked", path, what, _WITHOUT))
        elif others:
            what = f"is also part of {', '.join(others)}, which cannot be patched (vDSO, real-mode code, purgatory)"
            refusals.append(refusal_row("patch-not-linked", path, what, _WITHOUT_USER))
        if not commands or (path.endswith(".c") and objects.is_included(path)):
            shared.append(path)
    return direct, shared, refusals


def _candidates(readers: Iterable[Readers], known: Collection[str]) -> list[str]:
    """The objects to look at, without those that are compiled anyway."""
    return sorted({name for found in readers for name in found.asked} - set(known))


def _is_included(path: str, changed: Mapping[str, bytes | None]) -> bool:
    """Whether another changed file includes `path` (a new header, say): its objects are compiled for that already."""
    name = re.escape(path.rpartition("/")[2].encode("utf-8", "surrogateescape"))
    line = re.compile(rb"^[ \t]*#[ \t]*include[ \t]*[<\"](?:[^>\"\n]*/)?" + name + rb"[>\"]", re.MULTILINE)
    return any(content is not None and line.search(content) for other, content in changed.items() if other != path)


def _is_read(readers: Readers, work: Work, objects: ListedObjects) -> bool:
    """Whether one of the nearest objects really reads the file; told by preprocessing, one after the other."""
    return any(readers.path in work.reach([objects.of_object(name)])[0].reads for name in readers.near[:PROBES])


def _not_built(path: str) -> Refusal:
    return refusal_row("patch-not-built", path, "is read by no object of this kernel's configuration", _WITHOUT)


def _not_generated(path: str, absent: Sequence[str]) -> Refusal:
    what = f"may be read by sources that could not be generated here: {', '.join(absent)}"
    return refusal_row("patch-user-unseen", path, what, _WITHOUT_USER)


def _too_many(readers: Sequence[Readers], considered: int, limit: int) -> list[Refusal]:
    """Refusals of the headers that more than `limit` objects may read, be it together."""
    large = [found for found in readers if len(found.asked) > limit] or [found for found in readers if found.asked]
    what = f"{considered} objects may read {', '.join(found.path for found in large)}: more than the limit of {limit}"
    advice = "raise the limit, or accept that only objects are rebuilt that another changed file reaches"
    return [
        Refusal("patch-many-users", r.path, "", "; ".join(filter(None, (what, r.ended))), advice, fatal=False)
        for r in large
    ]


def _not_followed(command: Command, read: Iterable[str]) -> list[Refusal]:
    """Why an object that the change of the files `read` reaches cannot become a pair; none if it can."""
    if command.unreachable:
        what = f"is read by {command.object}, which cannot be patched (vDSO, real-mode code, purgatory)"
        return [refusal_row("patch-not-linked", path, what, _WITHOUT_USER) for path in read]
    if command.assembler:
        what = "is assembler that reads a changed header"
        return [refusal_row("patch-assembler", command.source, what, _WITHOUT_USER)]
    return []

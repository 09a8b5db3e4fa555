"""Compile single objects of a prepared tree by kbuild's own commands, keep them, share them between runs.

The old version is compiled in the tree, the new one in a shadow of it (see
`shadow`); both write elsewhere, so the tree stays as it is. What was compiled
is kept under a name made of everything that decides it: the tree, the command,
the content of each file that differs from the tree.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from builder.acquire import cache
from builder.acquire.cache import cache_root, locked, published_unlocked
from builder.acquire.kbuild import Command
from builder.acquire.preparing import processors
from builder.acquire.source import SourceTree
from builder.acquire.tools import run
from builder.acquire.whole import write_whole
from builder.errors import InputError, MissingFileError, ToolError

#: more objects than this are not compiled unless asked for
OBJECT_LIMIT = 500

#: told after each piece of work: (done, all, what it was)
CompileProgress = Callable[[int, int, str], None]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Compiling:
    """How objects are compiled: at most `limit`, `jobs` at once (None: one for each CPU), told to `progress`."""

    limit: int = OBJECT_LIMIT
    jobs: int | None = None
    progress: CompileProgress | None = None


AS_USUAL: Final = Compiling()
"""On all CPUs, up to the usual limit, in silence."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One compiled object; `dependencies` are the files read, as the compiler named them."""

    object: Path
    dependencies: tuple[str, ...]
    log: Path


def object_key(tree: SourceTree, command: Command, changed: Mapping[str, bytes | None]) -> str:
    """A name for what `command` makes of `tree` with the files `changed` (None: taken away) in place."""
    digest = hashlib.sha256()
    parts = [
        tree.identity,
        tree.compiler.version,
        command.object,
        command.source,
        *command.words,
        "|",
        *command.objtool,
    ]
    digest.update("\0".join(parts).encode("utf-8", "surrogateescape"))
    for path in sorted(changed):
        content = changed[path]
        mark = _mark(content) if content is not None else "-"
        digest.update(f"\0{path}\0{mark}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


@lru_cache(maxsize=256)
def _mark(content: bytes) -> str:
    """What tells a text from any other; of many objects the same few files are changed."""
    return hashlib.sha256(content).hexdigest()


def kept(tree: SourceTree, key: str) -> Compiled | None:
    """The object of that key when it has been compiled before."""
    place = cache.kept(f"objects/{tree.identity}", key)
    return _compiled(place) if place is not None else None


def keep_as(tree: SourceTree, made: Compiled, key: str) -> None:
    """Let what was compiled be found under another key too."""

    def copy(place: Path) -> None:
        for file in made.object.parent.iterdir():
            if not file.name.startswith("."):  # the checksums are of the place
                shutil.copyfile(file, place / file.name)

    published_unlocked(f"objects/{tree.identity}", key, copy)


def _compiled(place: Path) -> Compiled:
    listed = json.loads((place / "dependencies.json").read_text())
    return Compiled(object=place / "object.o", dependencies=tuple(listed), log=place / "log")


def compile_object(
    tree: SourceTree,
    command: Command,
    *,
    root: Path,
    key: str,
    accept: Callable[[tuple[str, ...]], None] = lambda dependencies: None,
) -> Compiled:
    """Compile one object with `root` (the tree or a shadow of it) as current directory.

    `accept` sees the dependencies before anything is kept and may raise. Files
    that kbuild would have generated first are generated when `root` is the tree.

    Raises `InputError` with the compiler's first error.
    """

    def make(place: Path) -> None:
        target, listing, log = place / "object.o", place / "depends", place / "log"
        words: list[str | Path] = [
            *command.words,
            f"-fdebug-prefix-map={root}=.",
            f"-Wp,-MMD,{listing}",
            "-c",
            "-o",
            target,
            command.source,
        ]
        try:
            run(words, cwd=root, log=log, env={"TMPDIR": str(place)})
        except ToolError as error:
            said = log.read_text(errors="replace") if log.is_file() else error.message
            lasting = cache_root() / "logs" / f"failed-{key}.log"
            write_whole(lasting, said)
            raise not_compiled(
                f"does not compile: {_first_error(said)} (log: {lasting})", where=command.source
            ) from error
        if command.objtool:
            run([tree.root / "tools/objtool/objtool", *command.objtool, target], cwd=tree.root, log=log)
        dependencies = read_dependencies(listing)
        accept(dependencies)
        listing.unlink()
        (place / "dependencies.json").write_text(json.dumps(dependencies))

    def compiled() -> Compiled:
        return _compiled(published_unlocked(f"objects/{tree.identity}", key, make))

    if (before := kept(tree, key)) is not None:
        return before
    return compiled() if root != tree.place else generating(tree, command, compiled)


def generating(tree: SourceTree, command: Command, work: Callable[[], R]) -> R:
    """`work()`; where it lacks a file that kbuild would have generated first, that is generated in the tree."""
    try:
        return work()
    except MissingFileError:
        pass
    root = tree.root
    with locked(f"source-{root.name}") as lock:
        tree.generate([os.path.normpath(command.object)], lock)
    return work()


def not_compiled(message: str, *, where: str) -> InputError:
    """The error of source that the compiler does not take, by what it said: a `MissingFileError` for a missing file."""
    return (MissingFileError if os.strerror(errno.ENOENT) in message else InputError)(message, where=where)


def _first_error(said: str) -> str:
    lines = said.splitlines()
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "no message")


def read_dependencies(listing: Path) -> tuple[str, ...]:
    """The files of a make rule as the compiler writes it (`-MMD`); its target left out."""
    text = listing.read_text("utf-8", "surrogateescape").replace("\\\n", " ")
    return tuple(text.partition(":")[2].split())


def preprocess(command: Command, *, root: Path, listing: Path) -> bytes:
    """The preprocessed text of the command's source below `root`, line markers stripped.

    The files read are written to `listing`. Raises `InputError` as `compile_object`.
    """
    text = listing.with_suffix(".i")
    words = [
        *command.words,
        "-E",
        "-P",
        f"-Wp,-MMD,{listing}",
        f"-Wp,-MT,{command.object}",
        "-o",
        str(text),
        command.source,
    ]
    try:
        run(words, cwd=root, env={"TMPDIR": str(listing.parent)})
    except ToolError as error:
        raise not_compiled(f"cannot be preprocessed: {error.message}", where=command.source) from error
    content = text.read_bytes()
    text.unlink()
    return content


def in_parallel(
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    name: Callable[[T], str],
    jobs: int | None = None,
    progress: CompileProgress | None = None,
) -> list[R]:
    """`work` of each item, in the items' order; the first exception ends all of it."""
    if len(items) == 1:
        results = [work(items[0])]
        if progress is not None:
            progress(1, 1, name(items[0]))
        return results
    with ThreadPoolExecutor(max_workers=jobs or processors()) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress is not None:
                    progress(done, len(items), name(futures[future]))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        return [future.result() for future in futures]

"""A kernel's source, prepared so that any of its objects can be compiled alone as the kernel's own was.

A prepared tree lies in the cache, is shared by all runs and is not written to
again, but for generated files that a single object turns out to need. It is a
tree only with its stamp: what an interruption leaves is removed and made anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from builder.acquire import apt, sums
from builder.acquire.cache import cache_path, cache_root, clean_name, locked, remove_tree, scratch
from builder.acquire.kbuild import ListedObjects, record, record_folders
from builder.acquire.packages import kernel_config, kernel_groups, kernel_version
from builder.acquire.preparing import STAMP, make_variables, prepare, processors
from builder.acquire.queue import featureset, fetched_queue
from builder.acquire.readymade import READYMADE, fetch_readymade
from builder.acquire.toolchain import Compiler, find_compiler, read_config
from builder.acquire.tools import aside, run
from builder.acquire.tree_state import STATE, DisturbedError, TreeWatch, disturbed, keep_state, told
from builder.errors import NOTHING, Allowed, InputError, Refusal, RefusedError, ToolError

log = logging.getLogger("bespoke.acquire")

Made = TypeVar("Made")

#: in a tree: files are being generated in it
GENERATING = ".bespoke/generating"

#: in a tree: the list of its objects; the number tells it from lists made in another way, which are not read
LISTING = ".bespoke/objects-4.db"

#: in a tree: those of single folders, as long as the whole is not needed
FOLDERS = ".bespoke/folders-4"

#: in a tree: which file includes which
INCLUDES = ".bespoke/includes-3.json"

#: in a tree: the times of its state and of the list of its objects when no object lacked its source
COMPLETE = ".bespoke/complete.json"

#: in a tree: the names of the sources that others include, from all that may be read there
INCLUDED = ".bespoke/included-1.json"


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A prepared kernel source: `place` is both source and build directory.

    Whoever reads it asks for `root`, which is that directory once it is sure that nobody else has changed it, or for a
    `file` of it; `place` is for what is kept there by ourselves.

    `identity` names its content (package version, or the fingerprint of a
    directory), its configuration and compiler: what was compiled from it may be
    kept under that name. `drift` lists options that could not be set as the
    kernel has them.
    """

    release: str
    place: Path
    identity: str
    kernel_version: str
    compiler: Compiler
    drift: tuple[str, ...]
    watch: TreeWatch | None = field(default=None, compare=False, repr=False)

    @property
    def root(self) -> Path:
        """The directory, as it was left: one that was changed is made anew first (about a minute).

        Raises DisturbedError where it was changed and this process uses it (`in_use`).
        """
        if self.watch is not None:
            self.watch.whole()
        return self.place

    def file(self, name: str) -> Path:
        """One file, by its path in the tree, as it was left; also one that is not there. Raises as `root`."""
        if self.watch is not None:
            self.watch.file(name)
        return self.place / name

    def generate(self, goals: Iterable[str], lock: int) -> None:
        """Make `goals` for the files that kbuild generates before them; under the lock of descriptor `lock`.

        While this goes on the tree is marked: where nobody came back to take the
        mark away, a generated file may be half written, and the tree is made anew.
        """
        mark = self.place / GENERATING
        mark.touch()
        log_file = self.place / ".bespoke/generate.log"
        try:
            run([*self._make(), f"-j{processors()}", "-s", "-k", *goals], cwd=self.place, log=log_file, held=(lock,))
        except ToolError:
            mark.unlink()  # make ended by itself: it has removed what it could not finish
            keep_state(self.place)
            raise
        mark.unlink()
        keep_state(self.place)

    def complete(self, objects: ListedObjects) -> list[str]:
        """Generate the sources that objects are compiled from and the tree lacks; those that cannot be.

        Once for a tree (about 15 s, 31 sources of a distribution's 13,000): what they
        include cannot be read before.
        """

        def absent() -> dict[str, str]:
            return {file: name for name, file in objects.live() if not os.path.isfile(f"{self.place}/{file}")}

        # To look at 13,000 files takes a tenth of what a repeated patch does; none has gone from the tree as it is now.
        now = [made.stat().st_mtime_ns for record in (STATE, LISTING) if (made := self.place / record).is_file()]
        if len(now) > 1 and sums.read_json(self.place / COMPLETE) == now:
            return []
        root = self.root
        if not absent():
            sums.keep_json(root / COMPLETE, now)
            return []
        with locked(f"source-{root.name}") as lock:
            if missing := absent():
                log.info("generating %d sources", len(missing))
                with contextlib.suppress(ToolError):  # what it could not make is what is absent still
                    self.generate(missing.values(), lock)
                for name in (INCLUDES, INCLUDED):
                    (root / name).unlink(missing_ok=True)
        return sorted(absent())

    def named(self, identity: str) -> SourceTree:
        """The same tree under the name of its present content."""
        return replace(self, identity=identity)

    @contextmanager
    def in_use(self, *, lazily: bool = False) -> Iterator[None]:
        """Keep the tree as it is: a copy of a directory waits with following its changes, and nobody makes it anew.

        It is looked at as a whole before; `lazily` only when something asks for `root`, which may raise then.
        """
        if not lazily:
            self.root  # noqa: B018 - made anew here, if at all
        watched = self.watch.used() if self.watch is not None else contextlib.nullcontext()
        with watched, locked(f"use-{self.place.name}", shared=True):
            record = self.place / ".bespoke/identity"
            if record.is_file() and record.read_text() != self.identity:
                raise ToolError("the source was changed while it was in use: run again", where=self.place)
            if self.watch is not None and not (self.place / STAMP).is_file():
                raise ToolError("somebody could not make the prepared source anew: run again", where=self.place)
            yield

    def using(self, work: Callable[[], Made]) -> Made:
        """`work()` with the tree in use, of which it looks at all files only where it asks for `root`.

        Where somebody has changed the tree, all is done again.
        """
        try:
            with self.in_use(lazily=True):
                return work()
        except DisturbedError:
            log.info("the prepared source was changed: all is done again")
        # No longer in use here, so that it can be made anew; what was found until then is of no use.
        with self.in_use():
            return work()

    def objects(self) -> ListedObjects:
        """The objects of the tree's configuration; listed at the first call (about 20 s), then kept."""
        database = self.place / LISTING
        if not sums.is_sealed(database):
            root = self.root
            with locked(f"source-{root.name}", inherited=True):
                if not sums.is_sealed(database):
                    remove_tree(database)
                    with scratch("objects") as work:
                        record(root, [*self._make(), f"-j{processors()}"], work / "objects.db")
                        sums.seal(work / "objects.db")
                        os.replace(work / "objects.db", database)
        listed = ListedObjects(database)
        if listed.lacking:
            _tell_lacking(database, tuple(listed.lacking))
        return listed

    def is_listed(self) -> bool:
        """Whether all objects are listed already."""
        return (self.place / LISTING).exists()

    def objects_in(self, folders: Iterable[str]) -> dict[str, ListedObjects]:
        """The objects that the makefiles of single folders name, by the folder; see `kbuild.record_folders`.

        Of each they are listed at the first call (about a second), then kept.
        """
        places = {folder: self.place / FOLDERS / f"{clean_name(folder.replace('/', '__'))}.db" for folder in folders}

        def missing() -> list[str]:
            return [folder for folder, database in places.items() if not sums.is_sealed(database)]

        if missing():
            root = self.root
            with locked(f"source-{root.name}", inherited=True), scratch("objects") as work:
                if made := {folder: work / places[folder].name for folder in missing()}:
                    (root / FOLDERS).mkdir(exist_ok=True)
                    record_folders(root, [*self._make(), f"-j{processors()}"], made)
                    for folder, database in made.items():
                        sums.seal(database)
                        remove_tree(places[folder])
                        os.replace(database, places[folder])
        return {folder: ListedObjects(database) for folder, database in places.items()}

    def _make(self) -> list[str]:
        # What `prepare` stands for in the top Makefile is made, as far as any object needs it.
        # With --no-print-directory newer Makefiles (v6.10) do not call themselves, which would forget the -o.
        variables = make_variables(self.place, self.release, self.compiler)
        return ["make", "--no-print-directory", "-o", "prepare", *variables]


@cache
def _tell_lacking(_database: Path, lacking: tuple[str, ...]) -> None:
    """Say, once in a run, that the list of a tree's objects is not whole."""
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    log.warning(
        "make has no rule for %s%s: objects beside it may not be listed, and what they read of a patch not be seen",
        lacking[0], more,
    )  # fmt: skip


def fetch_source(
    release: str, version: str | None = None, *, suite: str | None = None, allowed: Allowed = NOTHING
) -> SourceTree:
    """The distribution's source of exactly the kernel package of `release`, with its patches, prepared.

    About 150 MB to download and 1.5 GB on disk the first time, then from the
    cache; the kernel's image itself is not needed. Raises `InputError` when the archive, or `suite`, offers that
    version no longer, `RefusedError` for another compiler or configuration, `ToolError` for a missing program,
    or a file that the archive lists and does not serve.
    """
    exact = kernel_version(release, version, suite=suite)
    name = f"linux-source-{'.'.join(release.split('.')[:2])}"

    def download() -> None:
        apt.download(apt.lookup(name, exact, kernel_groups(release, suite)))

    trees = (cache_root() / "source").glob(f"{clean_name(f'{name}_{exact}')}*_{clean_name(release)}_*")
    # What decides how it is compiled may have to be fetched, too.
    with nullcontext() if any(trees) else aside(download):
        configured = kernel_config(release, exact, suite=suite)
        config = read_config(configured)
        groups = kernel_groups(release, suite)
        compiler = find_compiler(config, allowed, groups)
    features = featureset(release, groups) if config.get("CONFIG_PREEMPT_RT") == "y" else ""

    def tree(applied: str) -> SourceTree:
        def unpack(root: Path) -> None:
            with fetched_queue(applied, exact, groups) if applied else nullcontext() as queue:
                unpack_package(apt.lookup(name, exact, groups), root)
                if queue is not None:
                    queue.apply(root)
            # Only the very source that the kernel was built from is configured as it was.
            made = fetch_readymade(release, exact, groups) if applied == features else None
            if made is not None:
                shutil.copytree(made, root / READYMADE, ignore=shutil.ignore_patterns(".sums"))

        origin = f"{name}_{exact}" + (f"+{applied}" if applied else "")
        return prepared(tree_identity(origin, release, compiler), release, configured, compiler, unpack)

    if features:
        try:
            return accepted(tree(features), allowed)
        except (ToolError, InputError) as error:
            if not allowed.covers(_drift("CONFIG_PREEMPT_RT: y -> n")):
                raise
            log.warning("without the patches of %s, whose functions will not be those that run: %s", features, error)
    return accepted(tree(""), allowed)


def accepted(tree: SourceTree, allowed: Allowed) -> SourceTree:
    """`tree` where it is configured as the kernel is; else RefusedError (code `config-drift`), unless `allowed`.

    Before any code is compared: what differs then would be blamed on the code.
    """
    if rest := [refusal for row in tree.drift if not allowed.covers(refusal := _drift(row))]:
        raise RefusedError(rest)
    return tree


def _drift(row: str) -> Refusal:
    return Refusal(
        code="config-drift",
        symbol=row.partition(":")[0],
        section="",
        fatal=False,
        message=f"the source cannot be configured as the kernel is: {row}",
        advice="name the source that the kernel was built from, with the patches of its flavour (--source)",
    )


def tree_identity(origin: str, release: str, compiler: Compiler) -> str:
    """The cache's name for the tree of `origin` as `release` is configured and compiled."""
    parts = [origin, release, compiler.version.rpartition(" ")[2]]
    return "_".join(clean_name(part) for part in parts)


def unpack_package(package: apt.Package, root: Path) -> None:
    """Unpack the source archive that a `linux-source-*` package holds (patches applied) into `root`."""
    with scratch("source") as work:
        apt.unpack_all([package], work)
        archives = list((work / "usr/src").glob(f"{package.name}.tar*"))
        if len(archives) != 1:
            raise InputError("the package holds no single source archive", where=package.file_name)
        unpack_archive(archives[0], root)


def unpack_archive(archive: Path, root: Path) -> None:
    """Unpack a tar archive whose files lie below one top directory into `root`."""
    log.info("unpacking %s", archive.name)
    # The distribution's archives are of many blocks: xz unpacks them with as many threads (since 5.4), if told to.
    # To read a MiB at a time, not 10 KiB, takes tar a fifth less of the time.
    words: list[str | Path] = ["tar", "-x", "-b", "2048", "-f", archive, "--strip-components=1", "--no-same-owner"]
    words += ["-C", root]
    run(words, env={"XZ_OPT": f"-T{processors()}"})
    if not (root / "Kconfig").is_file():
        raise InputError("no kernel source (no Kconfig at its top)", where=archive)


def prepared(
    identity: str,
    release: str,
    config: Path,
    compiler: Compiler,
    unpack: Callable[[Path], None],
    *,
    alone: bool = False,
) -> SourceTree:
    """The prepared tree `identity` of the cache; `unpack(root)` fills it first where it is absent.

    One that is another than it was left as, because somebody ran a `make` in it, is made anew, once nobody uses it,
    when it is asked for; with `alone` the caller has seen to that, and it is made anew here.
    """
    root = cache_path("source", identity)

    def made(*, look: bool) -> str:
        return _made(root, release, config, compiler, unpack, look=look, alone=alone)

    facts = json.loads(made(look=alone))
    return SourceTree(
        release=release,
        place=root,
        identity=root.name,
        kernel_version=facts["kernel_version"],
        compiler=compiler,
        drift=tuple(facts["drift"]),
        watch=None if alone else TreeWatch(root, lambda: made(look=True)),
    )


def _made(
    root: Path,
    release: str,
    config: Path,
    compiler: Compiler,
    unpack: Callable[[Path], None],
    *,
    look: bool,
    alone: bool,
) -> str:
    """Make the tree at `root` where it is absent, half made or, if it is to be looked at, another than it was left as.

    What its stamp says.
    """
    stamp = root / STAMP
    with locked(f"source-{root.name}"):
        changed = disturbed(root) if look and stamp.is_file() and not (root / GENERATING).exists() else []
    # Who uses the tree takes this one first, too.
    waiting = locked(f"use-{root.name}") if changed and not alone else contextlib.nullcontext()
    with waiting, locked(f"source-{root.name}", inherited=True):
        if changed := changed and disturbed(root):
            log.warning("the prepared source in %s was changed (%s): making it anew", root, told(changed))
        if changed or not stamp.is_file() or (root / GENERATING).exists():
            remove_tree(root)
            root.mkdir(parents=True)
            try:
                unpack(root)
                remove_tree(root / ".config")
                (root / ".bespoke").mkdir(exist_ok=True)
                shutil.copyfile(config, root / ".bespoke/config")
                prepare(root, release, compiler)
            except BaseException:
                # Room is what a full disk lacks; a killed run leaves it to the next.
                remove_tree(root)
                raise
        elif not (root / STATE).is_file():
            keep_state(root)  # made by a version that kept none
        return stamp.read_text()

"""The listing of objects against what the image and the modules really hold: no directory, no file can be missing.

The evidence is independent of the listing: names of functions in kallsyms and in the modules' symbol tables, and
the source's text, read by a cheap scan. A file whose own functions run must be compiled by something listed.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.acquire.includes import including_sources
from builder.acquire.kbuild import VMLINUX, Command, ListedObjects, record, record_folders
from builder.acquire.listed import TreeObjects
from builder.acquire.makers import makers
from builder.acquire.packages import KernelTree, fetch_kernel
from builder.acquire.readers import read_includes, read_source_includes
from builder.acquire.source import SourceTree, fetch_source
from builder.binary.kernel import Kernel
from builder.binary.reader import read_object

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(900)]

#: a function's head at the left margin, as the kernel's style has it, and the brace of its body
FUNCTION = re.compile(
    rb"^(?!static inline|#|\s|typedef|extern)[^\n;={}#]*?\b(\w+)\([^;{}=]*\)[^;{}=()]*\n\{", re.MULTILINE
)
ENTRY = re.compile(rb"SYM_(?:FUNC|CODE)_START\w*\((\w+)\)")

#: what is no source of this kernel's running code
ELSEWHERE = {"tools", "Documentation", "samples", "scripts", "rust", "usr", ".bespoke"}
NOT_RUNNING = ("arch/x86/boot", "arch/x86/tools", "arch/x86/um", "arch/x86/purgatory", "arch/x86/realmode")


@dataclass(frozen=True)
class Evidence:
    """`own`: C file -> functions that no other file of the tree defines; `compiled_by`: it and who may include it."""

    own: Mapping[str, frozenset[str]]
    compiled_by: Mapping[str, frozenset[str]]


@pytest.fixture(scope="module")
def tree(release_61: str) -> SourceTree:
    return fetch_source(release_61)


@pytest.fixture(scope="module")
def package(release_61: str) -> KernelTree:
    return fetch_kernel(release_61)


@pytest.fixture(scope="module")
def listing(tree: SourceTree) -> ListedObjects:
    """As it was made when something asked for it first."""
    return tree.objects()


@pytest.fixture(scope="module")
def commands(listing: ListedObjects) -> list[Command]:
    return listing.all()


@pytest.fixture(scope="module")
def evidence(tree: SourceTree, listing: ListedObjects) -> Evidence:
    where: defaultdict[str, set[str]] = defaultdict(set)
    for folder, folders, files in os.walk(tree.root):
        here = os.path.relpath(folder, tree.root)
        if here == ".":
            folders[:] = [name for name in folders if name not in ELSEWHERE]
        elif here == "arch":
            folders[:] = ["x86"]
        elif here in NOT_RUNNING:
            folders[:] = []
            continue
        for name in files:
            if name.endswith((".c", ".h", ".S")):
                pattern = ENTRY if name.endswith(".S") else FUNCTION
                for found in pattern.findall(Path(folder, name).read_bytes()):
                    where[found.decode()].add(os.path.normpath(f"{here}/{name}"))
    own: defaultdict[str, set[str]] = defaultdict(set)
    for function, paths in where.items():
        if len(paths) == 1:
            own[min(paths)].add(function)
    own = defaultdict(set, {path: names for path, names in own.items() if path.endswith(".c")})
    includes = read_includes(tree, listing)
    return Evidence(
        {path: frozenset(names) for path, names in own.items()},
        {path: frozenset(includes.reaching([path])) for path in own},
    )


def running_files(running: Collection[str], evidence: Evidence) -> list[str]:
    """Files half of whose own functions are among the names that run."""
    runs = frozenset(running)
    return sorted(path for path, names in evidence.own.items() if len(names & runs) * 2 >= len(names))


def unlisted(files: Iterable[str], listed: Collection[str], evidence: Evidence) -> list[str]:
    """Those of the files that nothing `listed` is compiled from."""
    compiled = frozenset(listed)
    return [path for path in files if evidence.compiled_by[path].isdisjoint(compiled)]


def owned(commands: Iterable[Command]) -> dict[str, set[str]]:
    """Owner -> the sources that it is compiled from."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for command in commands:
        for owner in command.owners:
            found[owner].add(os.path.normpath(command.source))
    return found


def test_every_source_that_runs_in_the_image_is_listed(
    commands: list[Command], evidence: Evidence, release_61: str
) -> None:
    running = {symbol.name.partition(".")[0] for symbol in Kernel.open(release_61).all_symbols()}
    listed = owned(commands)[VMLINUX]
    files = running_files(running, evidence)
    assert unlisted(files, listed, evidence) == []
    # And it would be seen: each directory of the image in turn, and a single file.
    folders = {os.path.dirname(path) for path in listed if path.endswith(".c")}
    missed = [folder for folder in folders if not unlisted(files, _without(listed, folder), evidence)]
    assert len(missed) * 10 < len(folders), missed
    for gone in ("kernel/bpf", "lib", "mm", "arch/x86/kernel", "net/core", "kernel/module_signature.c", "lib/crc32.c"):
        assert gone not in missed
        assert unlisted(files, _without(listed, gone), evidence), gone


@pytest.mark.long
def test_it_is_the_same_where_objects_are_made_already(
    listing: ListedObjects, tree: SourceTree, tmp_path: Path
) -> None:
    """All of them; what single folders list there: below."""
    tree.complete(listing)
    record(tree.root, [*tree._make(), "-j2"], tmp_path / "objects.db")
    with ListedObjects(tmp_path / "objects.db") as anew:
        assert anew.all() == listing.all()


def _without(listed: Collection[str], gone: str) -> set[str]:
    return {path for path in listed if path != gone and os.path.dirname(path) != gone}


def test_every_module_is_listed(commands: list[Command], package: KernelTree) -> None:
    """All that the package says it has: loadable ones by name, builtin ones by the directory too."""
    root = package.modules
    owners = {owner for command in commands for owner in command.owners}
    loadable = {Path(line).name.partition(".")[0] for line in (root / "modules.order").read_text().splitlines()}
    assert len(loadable) > 1000
    assert {name.replace("-", "_") for name in loadable} - owners == set()
    # "?" is assembler of some module: it is compiled without the module's name.
    assert owners - {name.replace("-", "_") for name in loadable} == {VMLINUX, "?"}
    builtin = {
        line.removeprefix("kernel/").partition(".")[0] for line in (root / "modules.builtin").read_text().splitlines()
    }
    named = {
        match[1]
        for command in commands
        if command.owners == (VMLINUX,)
        for match in re.finditer(r"-DKBUILD_MODFILE=\"([^\"]+)\"", " ".join(command.words))
    }
    assert len(builtin) > 50 and builtin - named == set()


def test_every_source_of_a_module_is_listed_as_its(
    commands: list[Command], evidence: Evidence, package: KernelTree
) -> None:
    sources = owned(commands)
    files = sorted((package.modules / "kernel").rglob("*.ko*"))
    chosen = random.Random(11).sample(files, 200)
    missing = {}
    for path in chosen:
        obj = read_object(path)
        running = {symbol.name.partition(".")[0] for symbol in obj.symbols if symbol.is_function and symbol.is_defined}
        name = path.name.partition(".")[0].replace("-", "_")
        if absent := unlisted(running_files(running, evidence), sources[name], evidence):
            missing[name] = absent
    assert missing == {}


def test_the_sources_that_others_include_are_known_without_the_rest(listing: ListedObjects, tree: SourceTree) -> None:
    """Kept from all include lines, and made anew with them."""
    whole = read_includes(tree, listing).ending(".c")
    for _ in range(2):  # made, and read again
        found = read_source_includes(tree, listing)
        assert found.ending("") == whole and len(whole) < 1000
        assert "kernel/sched/build_utility.c" in found.including("kernel/sched/clock.c")
        assert not found.including("fs/open.c")


#: part of vmlinux, of a module; named by a folder above; part of a library
ALONE = ("fs/proc/meminfo.c", "fs/ext4/super.c", "fs/xfs/libxfs/xfs_ag.c", "lib/idr.c")


def test_folders_alone_tell_what_all_tell(
    listing: ListedObjects, tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some here, where objects are made already; all of a configuration by `python -m tests.acquire.folders`."""
    tree.complete(listing)
    found = {path: makers(tree.root, path) for path in ALONE}
    folders = sorted({folder for rows in found.values() for folder in rows or ()})
    lists = {folder: tmp_path / f"{number}.db" for number, folder in enumerate(folders)}
    record_folders(tree.root, [*tree._make(), "-j2"], lists)

    def objects_in(_: SourceTree, folders: Iterable[str]) -> dict[str, ListedObjects]:
        return {folder: ListedObjects(lists[folder]) for folder in folders}

    def objects(_: SourceTree) -> ListedObjects:
        raise AssertionError("all objects were listed")

    # As in a tree where nothing was listed yet.
    monkeypatch.setattr(SourceTree, "is_listed", lambda _: False)
    monkeypatch.setattr(SourceTree, "objects_in", objects_in)
    monkeypatch.setattr(SourceTree, "objects", objects)
    with TreeObjects(tree) as listed:
        listed.look_up(ALONE)
        assert {path: listed.of_source(path) for path in ALONE} == {path: listing.of_source(path) for path in ALONE}
        assert not listed.is_included("fs/proc/meminfo.c")
        # What no folder tells, and what a header's change asks.
        with pytest.raises(AssertionError):
            listed.of_source("virt/kvm/kvm_main.c")
    with TreeObjects(tree) as listed:
        listed.look_up(["fs/proc/meminfo.c", "include/linux/mm.h"])
        with pytest.raises(AssertionError):
            listed.of_source("fs/proc/meminfo.c")


def test_the_names_of_all_sources_that_others_include(tree: SourceTree) -> None:
    names = including_sources(tree.root)
    with tree.objects() as whole:
        by_name = read_source_includes(tree, whole).ending(".c")
    assert names >= {name.lstrip('<"=').rpartition("/")[2] for name in by_name} and "meminfo.c" not in names

"""New source files of a patch: a `.c` file, and the line of a makefile by which it is part of the kernel or a module.

The new object is compiled as its neighbours in that list are, and its old version is an empty object: all of it is new.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from builder.acquire.hunks import fit
from builder.acquire.kbuild import VMLINUX, Command, ListedObjects
from builder.acquire.makefile import ListedName, added_names, is_set, listed_with
from builder.acquire.patchfile import FileChange, refusal_row
from builder.acquire.source import SourceTree
from builder.acquire.toolchain import read_config
from builder.errors import Refusal

_MAKEFILE = re.compile(r"(.*/)?(Makefile|Kbuild)")
_WITHOUT = "leave the file out of the patch, or accept that its change is left out"


@dataclass(frozen=True, slots=True)
class Added:
    """`changes` without those of makefiles and new files that are followed, `commands` by the path of a new file,
    `content` of the new files, and the `refusals` of what a makefile adds that cannot be part of a livepatch."""

    changes: tuple[FileChange, ...]
    commands: Mapping[str, Command]
    content: Mapping[str, bytes]
    refusals: tuple[Refusal, ...]


def take_added(changes: Sequence[FileChange], tree: SourceTree, objects: ListedObjects) -> Added:
    """What of the changes are new files that the patch's own makefile lines add; all else stays as it is."""
    new = {c.path: c for c in changes if c.kind == "added" and c.path.endswith(".c")}
    commands: dict[str, Command] = {}
    content: dict[str, bytes] = {}
    refusals: list[Refusal] = []
    followed: list[FileChange] = []
    for change in changes if new else ():
        if change.kind != "modified" or not _MAKEFILE.fullmatch(change.path) or not (tree.root / change.path).is_file():
            continue
        old = (tree.root / change.path).read_text("utf-8", "surrogateescape")
        fitted = fit(old, change.hunks, change.patch)
        rows = None if fitted.misfits else added_names(old, fitted.text)
        folder = os.path.dirname(change.path)
        if not rows or any(_source(folder, row) not in new for row in rows):
            continue
        followed.append(change)
        for row in rows:
            path = _source(folder, row)
            command = _command(row, folder, old, tree, objects)
            if isinstance(command, str):
                refusals.append(refusal_row("patch-new-file", path, command, _WITHOUT))
                continue
            commands[path] = command
            text = fit("", new[path].hunks, new[path].patch).text
            content[path] = text.encode("utf-8", "surrogateescape")
    taken = {*(id(c) for c in followed), *(id(new[path]) for path in commands)}
    taken |= {id(new[row.symbol]) for row in refusals}
    return Added(tuple(c for c in changes if id(c) not in taken), commands, content, tuple(refusals))


def _source(folder: str, row: ListedName) -> str:
    return os.path.normpath(f"{folder}/{row.object[:-2]}.c")


def _command(row: ListedName, folder: str, text: str, tree: SourceTree, objects: ListedObjects) -> Command | str:
    """How a new object is compiled, or why it cannot be a part of anything that runs."""
    value = is_set(row.option, read_config(tree.root / ".config"))
    if not value:
        return f"is built for {row.option}, which this kernel's configuration has not set"
    path = os.path.normpath(f"{folder}/{row.object}")
    base = PurePosixPath(path).stem
    if re.search(rf"\b(CFLAGS|AFLAGS)(_REMOVE)?_{re.escape(base)}\.o\b", text):
        return "has flags of its own in its makefile"
    if row.name == "obj":
        if value == "m":
            return "is a new module: load it as such, it is no part of a livepatch"
        siblings = [c for c in objects.in_folder(folder) if c.owners == (VMLINUX,) and _alone(c)]
    else:
        names = (os.path.normpath(f"{folder}/{name}") for name in listed_with(text, row.name))
        siblings = [c for name in names for c in objects.named(name) if c.owners]
    siblings = [c for c in siblings if not c.assembler and not _has_own_flags(c, text)]
    if not siblings:
        return "has no neighbour that tells how it is compiled"
    usual = Counter(_flags(c) for c in siblings).most_common(1)[0][0]
    like = next(c for c in siblings if _flags(c) == usual)
    words = tuple(_renamed(word, base, path[:-2] if row.name == "obj" else "") for word in like.words)
    return replace(like, object=path, source=f"{path[:-2]}.c", words=words)


def _flags(command: Command) -> tuple[str, ...]:
    return tuple(word for word in command.words if "KBUILD_" not in word)


def _alone(command: Command) -> bool:
    """Whether an object is listed by itself: it is called as its file is."""
    base = PurePosixPath(command.object).stem.replace("-", "_")
    return f'-DKBUILD_MODNAME="{base}"' in command.words


def _has_own_flags(command: Command, text: str) -> bool:
    name = re.escape(PurePosixPath(command.object).name)
    return re.search(rf"\b\w*FLAGS(_REMOVE)?_{name}\b", text) is not None


def _renamed(word: str, base: str, alone: str) -> str:
    """A definition of kbuild for another file (scripts/Makefile.lib, basename_flags and modname_flags)."""
    name = base.replace("-", "_")
    if word.startswith("-DKBUILD_BASENAME="):
        return f'-DKBUILD_BASENAME="{name}"'
    if alone and word.startswith("-DKBUILD_MODNAME="):
        return f'-DKBUILD_MODNAME="{name}"'
    if alone and word.startswith("-D__KBUILD_MODNAME="):
        return f"-D__KBUILD_MODNAME=kmod_{name}"
    if alone and word.startswith("-DKBUILD_MODFILE="):
        return f'-DKBUILD_MODFILE="{alone}"'
    return word

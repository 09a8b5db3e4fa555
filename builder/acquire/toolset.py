"""The compiler of another suite, run from the cache with its assembler, its loader and its libraries.

The packages that the compiler needs to run are unpacked below one directory. Each program there is put behind a script
of its own name that starts it by the C library's own loader with the libraries beside it, since the machine's may be
older; what the compiler starts in turn it finds by its own place, or by the PATH that the script sets.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire import apt
from builder.acquire.cache import cache_path, published
from builder.acquire.program import names_loader
from builder.acquire.suites import Group
from builder.acquire.tools import ended
from builder.acquire.whole import write_whole
from builder.errors import InputError, ToolError

log = logging.getLogger("bespoke.acquire")

#: directories of a package with programs that a compiler starts, below its root
PROGRAMS: Final = ("usr/bin", "usr/lib/gcc", "usr/libexec/gcc", "usr/lib/gcc-cross", "usr/x86_64-linux-gnu/bin")

#: what the program itself is called behind its script
BEHIND: Final = ".elf"

_LOADER: Final = "ld-linux-x86-64.so.2"


@dataclass(frozen=True, slots=True)
class Toolset:
    """A compiler in the cache: `command` runs it, `linker` the linker beside it; `packages` are NAME=VERSION of all."""

    command: str
    linker: str
    packages: tuple[str, ...]


def fetch_compiler(name: str, version: str, groups: Sequence[Group]) -> Toolset:
    """The compiler of package `name` (such as `gcc-14`) at `version`, from the cache or the first group that offers it.

    Raises `InputError` where none does, and says which versions there are; `ToolError` where apt fails.
    """
    place = f"{name}_{version}"

    def make(work: Path) -> None:
        package = apt.lookup(name, version, groups)
        found = apt.closure([f"{name}={version}", "binutils"], package.group)
        apt.unpack_all(found, work)
        put_behind(work, cache_path("toolsets", place))
        write_whole(work / "packages", "".join(f"{package.name}={package.version}\n" for package in found))

    root = published("toolsets", place, make)
    command = root / "usr/bin" / name
    if not command.exists():
        raise ToolError(f"the package holds no program {name}", where=place)
    return Toolset(str(command), str(root / "usr/bin/ld"), tuple((root / "packages").read_text().split()))


def put_behind(work: Path, final: Path, folders: Sequence[str] = PROGRAMS) -> None:
    """Put each program in `folders` of `work`, which will be `final`, behind a script that starts it by its own loader.

    Raises `InputError` where no package of its own brought that loader.
    """
    loader = _loader(work)
    if loader is None:
        raise InputError(f"none of its packages holds {_LOADER}", where=final)
    libraries = ":".join(f"{final}/{lib}" for lib in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
    path = shlex.quote(str(final / "usr/bin"))
    # A program that starts others by its own name, as Debian's objtool, must be told that name (glibc 2.33, ld.so(8)).
    by_name = b"--argv0" in ended([loader, "--help"]).out
    for program in list(_files(work, folders)):
        if not os.access(program, os.X_OK) or not names_loader(program):
            continue
        behind = program.with_name(program.name + BEHIND)
        os.replace(program, behind)
        words: list[str | Path] = [final / loader.relative_to(work), "--library-path", libraries]
        words += ["--argv0", final / program.relative_to(work)] if by_name else []
        words += [final / behind.relative_to(work)]
        line = " ".join(shlex.quote(str(word)) for word in words)
        program.write_text(f'#!/bin/sh\nPATH={path}:"$PATH" exec {line} "$@"\n')
        program.chmod(0o755)


def _loader(work: Path) -> Path | None:
    """The loader below `work`; its name may be a link to one of the C library's version beside it (before 2.35)."""
    for path in work.glob(f"**/lib/*/{_LOADER}"):
        found = path.resolve()
        if found.is_relative_to(work.resolve()) and found.is_file():
            return path
    return None


def _files(work: Path, folders: Sequence[str]) -> Iterator[Path]:
    """The regular files below some folders of `work`; a folder may be a link into another (`/lib` is one)."""
    for folder in folders:
        top = work / folder
        if not top.is_symlink() and top.is_dir():
            for path in top.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    yield path

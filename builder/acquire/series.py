"""Several patches: a directory of them, or quilt's `series` file, in the order in which they apply."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.errors import InputError, UsageError

#: what a file of a directory without `series` must end in to count as a patch
PATCH_SUFFIXES = (".patch", ".diff")


def expand(paths: Iterable[Path]) -> list[Path]:
    """Directories and `series` files stand for their patches; other files for themselves.

    Raises `UsageError` for a missing file and where there is no patch, `InputError`
    for a series that cannot be read or names a patch that is not there.
    """
    return [patch for stack in stacks(paths) for patch in stack]


def stacks(paths: Iterable[Path]) -> list[list[Path]]:
    """The same in runs of patches of which each is made for a tree that has those before it: the patches of a series
    are one run, any other patch is one by itself."""
    out: list[list[Path]] = []
    for path in paths:
        series = path / "series" if path.is_dir() else path
        if path.is_dir() and not series.is_file():
            found = [[patch] for patch in _in_directory(path)]
        elif series.name == "series" or series.suffix == ".series":
            found = [read_series(series)]
        elif path.exists():
            found = [[path]]
        else:
            raise UsageError(f"there is no file {path}")
        if not any(found):
            raise UsageError(f"there are no patches in {path}")
        out += found
    return out


def _in_directory(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.suffix in PATCH_SUFFIXES and not p.name.startswith("."))


def read_series(path: Path) -> list[Path]:
    """The patches of a series file (quilt's: a name a line, `#` begins a comment, `-pN` may follow a name).

    Paths in a patch are found with or without a first component, so `-pN` decides
    nothing; `-R`, which would take a patch back, is an `InputError`.
    """
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=path) from error
    if "\0" in text:
        raise InputError("cannot be read: is no text", where=path)
    found: list[Path] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        for option in words[1:]:
            if not re.fullmatch(r"-p(\d+|ab)", option):
                raise InputError(f"line {number}: {option} is not known after a patch's name", where=path)
        patch = path.parent / words[0]
        if not patch.is_file():
            raise InputError(f"line {number}: there is no file {patch}", where=path)
        found.append(patch)
    return found


def module_names(patches: Iterable[Path]) -> Mapping[int, str]:
    """Number of a patch -> a name for its own module; equal ones are told apart by a number.

    A module's name has at most 55 letters, digits and `_` (MODULE_NAME_LEN,
    include/linux/module.h, Linux 6.1).
    """
    taken: set[str] = set()
    names: dict[int, str] = {}
    for number, patch in enumerate(patches):
        stem = patch.name.removesuffix(patch.suffix if patch.suffix in PATCH_SUFFIXES else "")
        plain = re.sub(r"[^A-Za-z0-9_]", "_", stem)[:51] or "fix"
        name, count = plain, 1
        while name in taken:
            count += 1
            name = f"{plain}_{count}"
        taken.add(name)
        names[number] = name
    return names

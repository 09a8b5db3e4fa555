"""Whose code a pair of objects is: vmlinux, or one of the modules.

Found by the functions of the old object, all of them, then by the code that runs, then by the FILE symbol. None or
several candidates is the refusal `owner-ambiguous`; an object that several modules are linked with is each one's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from builder.acquire.bounds import read_input
from builder.acquire.cache import cache_root
from builder.binary import elf
from builder.binary.kernel import Kernel
from builder.binary.kernel.module_index import ModuleIndex
from builder.compare import Atom
from builder.compose.outcome import Diff
from builder.compose.running import Running, RunningImage, RunningModule
from builder.compose.runpre import Matcher
from builder.compose.selection import is_trampoline, is_transient
from builder.errors import InputError, Refusal, RefusedError


@dataclass(frozen=True)
class Objects:
    """The objects of a target: vmlinux and modules by name, read when first asked for.

    `given` maps module names to their `.ko`; others are found in the release's
    module tree.
    """

    kernel: Kernel
    given: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def image(self) -> RunningImage:
        return RunningImage(self.kernel)

    def module(self, name: str) -> RunningModule | None:
        """A module by name, `-` and `_` being the same; None if there is no such file."""
        return self._read(name.replace("-", "_"))

    @cached_property
    def _read(self) -> Callable[[str], RunningModule | None]:
        """Reads each module once, by its name with `_`."""

        @cache
        def read(name: str) -> RunningModule | None:
            path = self._file(name)
            return RunningModule.read(name, path) if path else None

        return read

    def _file(self, name: str) -> Path | None:
        path = next((p for n, p in self.given.items() if n.replace("-", "_") == name), None)
        return path or self.kernel.find_module(name)

    def file_hash(self, name: str) -> str | None:
        """SHA-256 of the file of a module, given by its name with `_`; None if there is no such file."""
        path = self._file(name)
        return hashlib.sha256(read_input(path)).hexdigest() if path is not None else None

    def get(self, name: str) -> Running:
        """vmlinux or a module; InputError names one that cannot be found."""
        if name == "vmlinux":
            return self.image
        found = self.module(name)
        if found is None:
            raise InputError(
                f"no module {name} in the tree of {self.kernel.release}; give it with --object {name}=PATH"
            )
        return found

    def modules_with(self, functions: Sequence[str]) -> Sequence[str]:
        """Modules of the release that define all of these functions, by name."""
        return self._index.modules_with(functions) if self._index is not None and functions else []

    def modules_using(self, name: str) -> Sequence[str] | None:
        """Modules of the release that take a symbol from elsewhere, by name; None where there is no module tree."""
        return self._index.modules_using(name) if self._index is not None else None

    @cached_property
    def _index(self) -> ModuleIndex | None:
        root = self.kernel.modules_root
        return ModuleIndex(root, cache_root() / "kernels" / self.kernel.sha256) if root is not None else None


def for_each_owner(
    diffs: Sequence[Diff], owners: Sequence[str | None], objects: Objects
) -> tuple[list[Diff], list[str | None]]:
    """The pairs with the names of their owners, one of several modules once for each; None stays where it is not plain.

    An object is several modules' where all of them run every function of it, byte by byte (and have its FILE symbol, if
    they have any): whatever is wrong in one is wrong in the others.
    """
    rows: list[tuple[Diff, str | None]] = []
    for diff, owner in zip(diffs, owners, strict=True):
        names: Sequence[str | None] = [owner] if owner or diff.selection.is_empty else _all_owners(diff, objects)
        rows += [(diff, name) for name in names or [None]]
    return [diff for diff, _ in rows], [name for _, name in rows]


def _all_owners(diff: Diff, objects: Objects) -> Sequence[str]:
    """The names of the several modules that a pair's old object is part of; empty where there is one, or none."""
    try:
        find_owner(diff, objects)
    except RefusedError:
        functions = _functions(diff)
        found = _who_has(diff, objects, functions, functions)
        files = set(_files(diff))
        modules = [r for r in found if isinstance(r, RunningModule) and (not r.files or r.files & files)]
        alike = [running for running in modules if _runs(diff, running, functions)]
        return [running.name for running in alike] if len(alike) == len(found) > 1 else []
    return []


def _functions(diff: Diff) -> list[Atom]:
    """The functions of the old object that stay in memory."""
    return [a for a in diff.comparison.old.functions if not is_transient(a) and not is_trampoline(a)]


def _runs(diff: Diff, running: Running, functions: Sequence[Atom]) -> bool:
    """Whether that is the code which runs there, for each of the functions."""
    matcher = Matcher(diff.comparison.old, running)
    return all(matcher.all_of(a)[0] for a in functions if a.symbol.bind != elf.STB_WEAK)


def find_owner(diff: Diff, objects: Objects, inside: str | None = None) -> Running:
    """The object that the old code of a pair runs in; `inside` is the user's word for it."""
    if inside is not None:
        return objects.get(inside)
    replaced = [diff.comparison.correlation.twins[a] for a in diff.selection.redirected]
    functions = _functions(diff)
    wanted = replaced or functions
    # A function may be missing where another compiler inlined it: then those that are replaced have to do.
    found = _who_has(diff, objects, functions, wanted) or _who_has(diff, objects, replaced, wanted)
    if len(found) > 1 and objects.image not in found:
        files = set(_files(diff))
        found = [r for r in found if isinstance(r, RunningModule) and r.files & files] or found
    if len(found) == 1:
        return found[0]
    names = ", ".join(r.name for r in found) or "none"
    raise RefusedError(
        [
            Refusal(
                "owner-ambiguous",
                wanted[0].name if wanted else Path(diff.old).name,
                "",
                f"which object the code of {Path(diff.old).name} belongs to is not plain: {names} of "
                f"{objects.kernel.release} has {', '.join(a.name for a in wanted[:3]) or 'its functions'}",
                "say it with --in vmlinux or --in MODULE (and --object MODULE=PATH for a module of your own); "
                "if none has it, the kernel is not the one that the objects were built for",
            )
        ],
        where=diff.old,
    )


def _who_has(diff: Diff, objects: Objects, functions: Sequence[Atom], wanted: Sequence[Atom]) -> Sequence[Running]:
    """Who has all of the functions and, if anybody, runs the code of those that are wanted.

    The modules of the release are looked at only where neither vmlinux nor a module that was given does.
    """

    def has_all(running: Running) -> bool:
        return bool(functions) and all(any(running.named(name) for name in a.names) for a in functions)

    def runs(running: Running) -> bool:
        return _runs(diff, running, wanted)

    names = dict.fromkeys(n.replace("-", "_") for n in sorted(objects.given))
    here = [r for r in (objects.image, *map(objects.module, names)) if r is not None and has_all(r)]
    found = [r for r in here if runs(r)]
    if not found:
        others = [n for n in objects.modules_with([a.name for a in functions]) if n not in names]
        here += [r for r in map(objects.module, others) if r is not None and has_all(r)]
        found = [r for r in here if runs(r)]
    # Where nobody runs the code, vmlinux is held against it first: the mismatch says what differs.
    return found or [r for r in here if r is objects.image] or here


def _files(diff: Diff) -> list[str]:
    return [s.name for s in diff.comparison.old.obj.symbols if s.type == elf.STT_FILE and s.name]

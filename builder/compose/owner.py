"""Whose code a pair of objects is: vmlinux, or one of the modules.

Found by the functions and the FILE symbol of the old object. None or several
candidates is the refusal `owner-ambiguous`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from builder.acquire.cache import cache_root
from builder.binary import elf
from builder.binary.kernel import Kernel
from builder.binary.kernel.module_index import ModuleIndex
from builder.compare import Atom
from builder.compose.outcome import Diff
from builder.compose.running import Running, RunningImage, RunningModule
from builder.compose.selection import is_transient
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
            path = next((p for n, p in self.given.items() if n.replace("-", "_") == name), None)
            path = path or self.kernel.find_module(name)
            return RunningModule.read(name, path) if path else None

        return read

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

    @cached_property
    def _index(self) -> ModuleIndex | None:
        root = self.kernel.modules_root
        return ModuleIndex(root, cache_root() / "kernels" / self.kernel.sha256) if root is not None else None


def find_owner(diff: Diff, objects: Objects, inside: str | None = None) -> Running:
    """The object that the old code of a pair runs in; `inside` is the user's word for it."""
    if inside is not None:
        return objects.get(inside)
    wanted = _telling_functions(diff)
    found: list[Running] = []
    if wanted and all(_has(objects.image, a) for a in wanted):
        found.append(objects.image)
    candidates = {n.replace("-", "_") for n in objects.given}
    if not found:
        candidates.update(objects.modules_with([a.name for a in wanted]))
    for name in sorted(candidates):
        module = objects.module(name)
        if module is not None and wanted and all(_has(module, a) for a in wanted):
            found.append(module)
    if len(found) == 1:
        return found[0]
    named = [r for r in found if isinstance(r, RunningModule) and r.files & set(_files(diff))]
    if len(named) == 1 and objects.image not in found:
        return named[0]
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


def _telling_functions(diff: Diff) -> list[Atom]:
    """Old functions that must be there: the replaced ones, else all of the object."""
    comparison = diff.comparison
    twins = comparison.correlation.twins
    replaced = [twins[a] for a in diff.selection.redirected]
    if replaced:
        return replaced
    return [a for a in comparison.old.functions if a.is_global and not is_transient(a)]


def _has(running: Running, atom: Atom) -> bool:
    return any(running.named(name) for name in atom.names)


def _files(diff: Diff) -> list[str]:
    return [s.name for s in diff.comparison.old.obj.symbols if s.type == elf.STT_FILE and s.name]

"""Marks, from words to a module: the statements are put into the source, and the rest is as with any patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.acquire.compile import AS_USUAL, Compiling
from builder.acquire.marks.source import MarkedSource, mark_source, write_patch
from builder.acquire.marks.words import Mark
from builder.acquire.source import SourceTree
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit import free_module_name
from builder.emit.patched import Patched
from builder.errors import KernelError
from builder.pipeline import ModulePlan, patch


class KernelLayouts:
    """What the kernel's own type information says of structures and enumerations."""

    def __init__(self, kernel: Kernel) -> None:
        self._btf = kernel.btf

    def members(self, struct: str) -> Sequence[str]:
        """Names of the members of a structure, those of anonymous ones in it too; none where it is not known."""
        try:
            layout = self._btf.layout(struct)
        except KernelError:
            return ()
        out: list[str] = []
        waiting = list(reversed(layout.members))
        while waiting:
            member = waiting.pop()
            if member.name:
                out.append(member.name)
            elif member.layout is not None:
                waiting += reversed(member.layout.members)
        return out

    def enumerators(self, enum: str) -> Mapping[str, int]:
        """The values of an enumeration by name; none where it is not known."""
        try:
            return self._btf.enumerators(enum)
        except KernelError:
            return {}


@dataclass(frozen=True)
class MarkedModule:
    """The marks as they stand in the source, and what came of the patch."""

    source: MarkedSource
    patched: Patched


def mark(
    marks: Sequence[Mark],
    tree: SourceTree,
    objects: Objects,
    plan: ModulePlan,
    how: Compiling = AS_USUAL,
    *,
    armed: bool = False,
) -> MarkedModule:
    """The module of `marks`, whose events are called after it.

    With `armed` they are recorded from the moment it is loaded. Raises as `pipeline.patch`, and RefusedError for
    what is wrong with a place or an expression.
    """
    free_module_name(plan.name, objects.kernel)
    source = mark_source(marks, tree, KernelLayouts(objects.kernel), plan.name, armed=armed)
    with TemporaryDirectory(prefix="bespoke-marks-") as folder:
        return MarkedModule(source, patch([write_patch(source, Path(folder))], tree, objects, plan, how))

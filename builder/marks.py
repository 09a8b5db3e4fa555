"""Marks, from words to a module: the statements are put into the source, and the rest is as with any patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.acquire.compile import AS_USUAL, Compiling
from builder.acquire.marks.source import MarkedSource, MarkPlan, mark_source, write_patch
from builder.acquire.marks.words import Mark
from builder.acquire.source import SourceTree
from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.compose.below import Earlier
from builder.compose.owner import Objects
from builder.emit.patched import Patched
from builder.errors import InputError, KernelError
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


def trace_systems(kernel: Kernel) -> frozenset[str]:
    """The systems of trace events that the kernel has itself: folders of `events` that are not a module's to take.

    `struct trace_event_class` begins with its system (include/linux/trace_events.h, v6.1).
    """
    found = set()
    for symbol in kernel.symbols_beginning("event_class_"):
        pointer = int.from_bytes(kernel.read(symbol.address, 8), "little")
        found.add(kernel.image.string(Address(pointer)))
    return frozenset(found)


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
    patches: Sequence[Path] = (),
) -> MarkedModule:
    """The module of `marks`, whose events are called after it.

    With `armed` they are recorded from the moment it is loaded. `patches` are those of an earlier livepatch
    (`plan.on`), whose versions of functions are marked. Raises as `pipeline.patch`, RefusedError for
    what is wrong with a place or an expression, and InputError for a module that is called as events of the kernel are.
    """
    if plan.name in trace_systems(objects.kernel):
        told = f"{plan.name!r} is what events of {objects.kernel.release} are called"
        raise InputError(f"{told}: say another with --name")
    generation = 1 + len(Earlier.read(plan.on).chain) if plan.on is not None else 1
    wanted = MarkPlan(plan.name, generation, armed, tuple(patches))
    source = mark_source(marks, tree, KernelLayouts(objects.kernel), wanted)
    with TemporaryDirectory(prefix="bespoke-marks-") as folder:
        made = write_patch(source, Path(folder))
        # A place that only a copy with all its callers could carry is refused: a mark is not worth a copy of them.
        return MarkedModule(source, patch([*patches, made], tree, objects, plan, how, callers=False))

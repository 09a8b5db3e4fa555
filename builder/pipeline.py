"""The pipeline, a table of contents: read this first.

    old.o, new.o -> Comparison -> Selection -> Bundle -> X.ko

`diff` stops after the selection; `build` goes on to the module; `patch` begins
with a source patch, from which it makes the objects. Each stage takes frozen
values and returns new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.binary import ObjectFile
from builder.binary.pair import is_same_file, read_pair
from builder.compare import compare
from builder.compose import judge, read_macros, select
from builder.compose.initial import require_sets, with_sets
from builder.compose.outcome import ChangeRefusedError, Diff, unchanged
from builder.compose.selection import MOST_CALLERS
from builder.errors import NOTHING, Allowed, RefusedError
from builder.plan import ModulePlan

if TYPE_CHECKING:
    from builder.acquire.compile import Compiling
    from builder.acquire.outside import ModuleSource
    from builder.acquire.pairs import ObjectPair
    from builder.acquire.patch import PatchObjects
    from builder.acquire.shifts import Shift
    from builder.acquire.source import SourceTree
    from builder.acquire.sources import SourceTarget
    from builder.binary.kernel import Kernel
    from builder.compose.carry import Carried
    from builder.compose.owner import Objects
    from builder.emit import Module
    from builder.emit.patched import Patched


def diff(old: Path, new: Path, *, shifts: Sequence[Shift] = (), allowed: Allowed = NOTHING) -> Diff:
    """What changed between two objects, and whether it can ship; `shifts`: what their source patch moves, if known."""
    return diff_objects(*read_pair(old, new), shifts=shifts, allowed=allowed)


def diff_document(old: Path, new: Path, *, shifts: Sequence[Shift] = (), allowed: Allowed = NOTHING) -> dict[str, Any]:
    """What `diff` finds, as the document of `--json`; of files of the same bytes without looking into them."""
    if is_same_file(old, new):
        return unchanged(str(old), str(new))
    found = diff(old, new, shifts=shifts, allowed=allowed)
    document = found.as_json()
    found.forget()
    return document


def diff_objects(old: ObjectFile, new: ObjectFile, *, shifts: Sequence[Shift] = (), allowed: Allowed = NOTHING) -> Diff:
    """The same for objects in memory."""
    # What really changed, by meaning.
    comparison = compare(old, new, shifts=shifts)
    macros = read_macros(comparison.new)
    # What must travel; from here on the set of functions is final.
    selection = with_sets(select(comparison, macros, allowed), allowed)
    # Whether it may.
    judged = judge(selection, allowed)
    return Diff(old.name, new.name, comparison, selection, judged)


def diff_again(old: Path, new: Path, *, shifts: Sequence[Shift] = (), allowed: Allowed = NOTHING) -> Diff:
    """`diff`, found in the cache where it was made before: for who makes modules, which pair after pair joins."""
    from builder.compose.kept_diffs import kept_diff

    return kept_diff(old, new, shifts, allowed, lambda a, b: diff_objects(a, b, shifts=shifts, allowed=allowed))


def running_part(diff: Diff, objects: Objects, inside: str | None = None, *, allowed: Allowed = NOTHING) -> Diff:
    """The pair without what the kernel never runs of it: weak functions that another definition overrides.

    `running_parts` does this to all pairs of a module.
    """
    # Here and below, for what looks at a kernel, and what writes a module, is slow to import, and a diff needs neither.
    from builder.compose.overridden import without_overridden

    return without_overridden(diff, objects, inside, allowed)


def running_parts(
    diffs: Sequence[Diff],
    owners: Sequence[str | None],
    objects: Objects,
    *,
    allowed: Allowed = NOTHING,
    limit: int = MOST_CALLERS,
    beside: bool = False,
) -> Carried:
    """The same of all pairs of one module, with the callers of what cannot be redirected, and those it has not;
    `beside` says that there are others, of which one ships."""
    from builder.compose.carry import carry
    from builder.compose.reselect import reselected

    parts = [running_part(d, objects, o, allowed=allowed) for d, o in zip(diffs, owners, strict=True)]
    found = carry(list(zip(parts, owners, strict=True)), objects, allowed=allowed, limit=limit)
    if not beside and all(diff.selection.is_empty for diff in found.diffs):
        return found
    # Beside a pair that ships, one of which only code for start or end changed is no longer just without effect.
    again = (reselected(d, allowed, alone=False) if d.selection.is_empty else d for d in found.diffs)
    return replace(found, diffs=tuple(again))


def build(
    diffs: Sequence[Diff], objects: Objects, plan: ModulePlan, *, inside: str | Sequence[str | None] | None = None
) -> Module | None:
    """One module from compared pairs for the kernel of `objects`; None if nothing in them has to ship.

    `inside` names the owner of all pairs, or of each of them (None where it is to be found: of an object that several
    modules are linked with, all of them).

    Raises ChangeRefusedError with every reason why the change cannot ship, of all
    pairs together, those that only the kernel tells included.
    """
    from builder.compose.owner import for_each_owner

    owners = [inside] * len(diffs) if inside is None or isinstance(inside, str) else list(inside)
    diffs, owners = for_each_owner(diffs, owners, objects)
    # What of it never runs there, and who else has to travel; no function is left out or added later.
    parts = running_parts(diffs, owners, objects, allowed=plan.allowed, limit=plan.limit)
    return build_parts(parts.diffs, owners, objects, plan)


def build_parts(
    diffs: Sequence[Diff], owners: Sequence[str | None], objects: Objects, plan: ModulePlan
) -> Module | None:
    """The same of what `running_parts` has found, and of which a report is made too."""
    from builder.compose.below import Earlier
    from builder.compose.bundle import bind
    from builder.emit import emit, free_module_name, parts_of

    name = free_module_name(plan.name, objects.kernel)
    require_sets([diff.selection for diff in diffs], plan.allowed)
    refusals = [r for diff in diffs for r in diff.judged.refusals]
    shipping = [(d, owner) for d, owner in zip(diffs, owners, strict=True) if not d.selection.is_empty]
    below = Earlier.read(plan.on) if plan.on is not None else None
    # What every reference is bound to; from here on nothing looks at the running code again.
    try:
        bundle = bind(name, shipping, objects, replace=plan.replace, below=below, allowed=plan.allowed)
    except RefusedError as refused:
        raise ChangeRefusedError([*refusals, *refused.refusals], diffs) from None
    if refusals:
        raise ChangeRefusedError(refusals, diffs)
    return emit(replace(bundle, compiler=plan.compiler), parts_of(bundle)) if shipping else None


def with_all_callers(
    found: PatchObjects,
    compared: Sequence[Diff],
    owners: Sequence[str | None],
    objects: Objects,
    plan: ModulePlan,
    how: Compiling,
) -> tuple[PatchObjects, Sequence[str | None], Carried]:
    """`running_parts` of compared pairs, with the objects of callers in other files of what cannot be redirected.

    The pairs come with those of the callers behind them, and with the owners of all. Raises as `compile_object`.
    """
    from builder.callers import with_callers

    while True:
        parts = running_parts(compared, owners, objects, allowed=plan.allowed, limit=plan.limit)
        # Each round may find that some of the callers cannot be redirected either.
        more = with_callers(found, parts.missing, objects, how)
        new = more.pairs[len(found.pairs) :]
        if not new:
            return more, owners, parts
        found = more
        compared = [*compared, *(diff_again(p.old, p.new, shifts=found.shifts, allowed=plan.allowed) for p in new)]
        owners = [*owners, *(pair.owner for pair in new)]


def patch(
    patches: Sequence[Path],
    tree: SourceTree | ModuleSource,
    objects: Objects,
    plan: ModulePlan,
    how: Compiling,
    *,
    callers: bool = True,
) -> Patched:
    """One module from source patches to the kernel's source or to that of a module, applied one on the other.

    Callers in other files of what cannot be redirected are brought in, unless not `callers`.
    Raises as `build` and, before anything is compared, as `prepare_patch`; refusals
    of what was compiled come as a PatchRefusedError, with what was found until then.
    """
    from builder.acquire.outside import ModuleSource, prepare_module
    from builder.acquire.patch import prepare_patch
    from builder.cumulative import joined
    from builder.emit import free_module_name
    from builder.emit.patched import Patched, PatchRefusedError

    free_module_name(plan.name, objects.kernel)
    # The objects that the patches can change, before and after.
    inner = not isinstance(tree, ModuleSource)
    found = (
        prepare_module(patches, tree, allowed=plan.allowed)
        if isinstance(tree, ModuleSource)
        else prepare_patch(patches, tree, allowed=plan.allowed, how=how)
    )

    @cache
    def compare(pair: ObjectPair) -> Diff:
        return diff_again(pair.old, pair.new, shifts=found.shifts, allowed=plan.allowed)

    # What most pairs bring was made before, where each stands for itself.
    as_it_runs = partial(running_parts, objects=objects, allowed=plan.allowed, limit=plan.limit)
    if (made := joined(found, objects, plan, compare, as_it_runs)) is not None:
        return made
    # What changed in each, of what the kernel runs.
    compared = [compare(pair) for pair in found.pairs]
    owners: Sequence[str | None] = [pair.owner for pair in found.pairs]
    if inner and callers:
        found, owners, parts = with_all_callers(found, compared, owners, objects, plan, how)
    else:
        parts = running_parts(compared, owners, objects, allowed=plan.allowed, limit=plan.limit)
    diffs = parts.diffs
    try:
        used = found.tree.compiler
        module = build_parts(diffs, owners, objects, replace(plan, compiler=(used.version, *used.packages)))
    except RefusedError as refused:
        raise PatchRefusedError(refused.refusals, found, diffs) from None
    return Patched(found, diffs, module)


def source_target(kernel: Kernel) -> SourceTarget:
    """What source for a kernel has to be of; its configuration is taken from beside the image, if it is there."""
    from builder.acquire.sources import SourceTarget

    beside = (kernel.path.parent / name for name in (f"config-{kernel.release}", "config"))
    return SourceTarget(kernel.release, next((path for path in beside if path.is_file()), None), kernel.banner)


__all__: Sequence[str] = (
    "Diff",
    "ModulePlan",
    "build",
    "build_parts",
    "diff",
    "diff_again",
    "diff_document",
    "diff_objects",
    "patch",
    "read_pair",
    "running_part",
    "running_parts",
    "source_target",
)

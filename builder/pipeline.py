"""The pipeline, a table of contents: read this first.

    old.o, new.o -> Comparison -> Selection -> Bundle -> X.ko

`diff` stops after the selection; `build` goes on to the module. Each stage
takes frozen values and returns new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.binary import ObjectFile
from builder.binary.kernel import Kernel
from builder.binary.pair import read_pair
from builder.compare import compare
from builder.compose import judge, read_macros, select
from builder.compose.below import Earlier
from builder.compose.bundle import bind
from builder.compose.outcome import Diff
from builder.compose.overridden import without_overridden
from builder.compose.owner import Objects
from builder.errors import NOTHING, Allowed, Refusal, RefusedError

if TYPE_CHECKING:
    from builder.emit import Module


def diff(old: Path, new: Path, *, allowed: Allowed = NOTHING) -> Diff:
    """What changed between two objects, and whether it can ship."""
    return diff_objects(*read_pair(old, new), allowed=allowed)


def diff_objects(old: ObjectFile, new: ObjectFile, *, allowed: Allowed = NOTHING) -> Diff:
    """The same for objects in memory."""
    # What really changed, by meaning.
    comparison = compare(old, new)
    macros = read_macros(comparison.new)
    # What must travel; from here on the set of functions is final.
    selection = select(comparison, macros, allowed)
    # Whether it may.
    judged = judge(selection, allowed)
    return Diff(old.name, new.name, comparison, selection, judged)


def running_part(diff: Diff, objects: Objects, inside: str | None = None, *, allowed: Allowed = NOTHING) -> Diff:
    """The pair without what the kernel never runs of it: weak functions that another definition overrides.

    `build` does this to all of its pairs; a report of what is built begins with it.
    """
    return without_overridden(diff, objects, inside, allowed)


def build(
    diffs: Sequence[Diff],
    kernel: Kernel,
    *,
    name: str,
    objects: Objects | None = None,
    inside: str | Sequence[str | None] | None = None,
    replace: bool = False,
    on: Path | None = None,
    allowed: Allowed = NOTHING,
) -> Module | None:
    """One module from compared pairs; None if nothing in them has to ship.

    `inside` names the owner of all pairs, or of each of them (None where it is to be found).
    `on` is an earlier module of ours to stack on (or, with `replace`, to take the place of).

    Raises RefusedError with every reason why the change cannot ship, of all
    pairs together, those that only the kernel tells included.
    """
    # Here, for what reads the module back is slow to import and diff needs none of it.
    from builder.emit import emit, module_name

    name = module_name(name)
    kernel.require_livepatch()
    owners = [inside] * len(diffs) if inside is None or isinstance(inside, str) else list(inside)
    objects = objects or Objects(kernel)
    # What of it never runs there; no other function is left out later.
    diffs = [running_part(d, objects, o, allowed=allowed) for d, o in zip(diffs, owners, strict=True)]
    refusals = [r for diff in diffs for r in diff.judged.refusals]
    shipping = [(d, owner) for d, owner in zip(diffs, owners, strict=True) if not d.selection.is_empty]
    below = Earlier.read(on) if on is not None else None
    # What every reference is bound to; from here on nothing looks at the running code again.
    try:
        bundle = bind(name, shipping, objects, replace=replace, below=below, allowed=allowed)
    except RefusedError as refused:
        raise RefusedError(_distinct([*refusals, *refused.refusals])) from None
    if refusals:
        raise RefusedError(_distinct(refusals))
    return emit(bundle) if shipping else None


def _distinct(refusals: Iterable[Refusal]) -> list[Refusal]:
    return list(dict.fromkeys(refusals))


__all__: Sequence[str] = ("Diff", "build", "diff", "diff_objects", "read_pair", "running_part")

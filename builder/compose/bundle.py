"""The bundle: all pairs of one module, bound, with what the module itself needs to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.binary.kernel import Kernel
from builder.compare import Atom
from builder.compose import late
from builder.compose.bindings import Binder, Bound
from builder.compose.outcome import Diff
from builder.compose.owner import Objects, find_owner
from builder.errors import Refusal, RefusedError


@dataclass(frozen=True)
class Bundle:
    """What one module carries. `provided` are new globals of one pair that others refer to by name."""

    name: str
    kernel: Kernel
    objects: Objects
    pairs: tuple[Bound, ...]
    provided: Mapping[str, tuple[int, Atom]]
    replace: bool = False

    @property
    def warnings(self) -> tuple[Refusal, ...]:
        return tuple(w for bound in self.pairs for w in (*bound.diff.judged.warnings, *bound.warnings))


def bind(name: str, diffs: Sequence[tuple[Diff, str | None]], objects: Objects, *, replace: bool = False) -> Bundle:
    """Find each pair's owner, where it is not said, and bind it; RefusedError lists all that stands in the way."""
    provided: dict[str, tuple[int, Atom]] = {}
    for number, (diff, _) in enumerate(diffs):
        for atom in (*diff.selection.functions, *diff.selection.data):
            if atom.is_global and atom not in diff.comparison.correlation.twins:
                for alias in atom.names:
                    provided.setdefault(alias, (number, atom))
    refusals: list[Refusal] = []
    pairs = []
    for diff, inside in diffs:
        try:
            owner = find_owner(diff, objects, inside)
        except RefusedError as refused:
            refusals.extend(refused.refusals)
            continue
        binder = Binder(diff, owner, objects, provided)
        bound = binder.bind()
        if not binder.refusals:
            bound, found = late.check(bound, objects)
            refusals.extend(found)
        pairs.append(bound)
        refusals.extend(binder.refusals)
    if refusals:
        raise RefusedError(refusals)
    return Bundle(name, objects.kernel, objects, tuple(pairs), provided, replace)

"""A diff once more, with what only the running kernel tells: the change stays, what travels of it is another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from builder.compare import Atom
from builder.compose.initial import with_sets
from builder.compose.outcome import Diff
from builder.compose.refusals import judge
from builder.compose.selection import select
from builder.errors import Allowed, Refusal


def reselected(
    diff: Diff,
    allowed: Allowed,
    *,
    left_out: frozenset[Atom] | None = None,
    forced: Mapping[Atom, tuple[str, ...]] | None = None,
    everywhere: frozenset[Atom] | None = None,
    noted: Iterable[Refusal] = (),
    alone: bool = True,
) -> Diff:
    """The diff selected and judged again; what is not given (see Selection) stays as it was, `noted` are warnings
    that come to those that were noted before, and what is not `alone` has another pair beside it that ships."""
    allowed |= diff.judged.allowed
    before = diff.selection
    again = select(
        diff.comparison,
        before.macros,
        allowed,
        left_out=before.left_out if left_out is None else left_out,
        forced=before.forced if forced is None else forced,
        everywhere=before.everywhere if everywhere is None else everywhere,
        beside=not alone,
    )
    selection = with_sets(again, allowed)
    told = tuple(dict.fromkeys((*diff.judged.noted, *noted)))
    return replace(diff, selection=selection, judged=judge(selection, allowed, told, alone=alone))

"""Where a probe goes whose instruction the new version does not have: the same point between its neighbours.

An instruction without a sure counterpart may still lie in a stretch that is run from one end to the other, with a
neighbour in it whose counterpart is known: then each run that passes the instruction passes that one, in both
versions. Its *point* in the new version is right before the counterpart of the next such neighbour, or right behind
that of the last one. A stretch ends at a choice, where control comes from elsewhere, and at a call, which need not
return. What repeats itself (`rep movs`) is no point and has none, as a probe there is hit more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.compare.flow import Flow

Known = Mapping[int, Sequence[int]]
"""Old lines and their counterparts, of those that are sure."""


def points(old: Flow, new: Flow, known: Known) -> dict[int, tuple[int, ...]]:
    """For each old line that is not in `known`, the new lines at its point: several, where the neighbour has copies."""
    found: dict[int, tuple[int, ...]] = {}
    for at, line in enumerate(old.lines):
        if at in known or line.operation.repeats:
            continue
        for there in (_next(old, known, at), _last(old, new, known, at)):
            if there and not any(new.lines[to].operation.repeats for to in there):
                found[at] = there
                break
    return found


def _next(old: Flow, known: Known, at: int) -> tuple[int, ...]:
    """The counterparts of the next neighbour."""
    seen = {at}
    while at not in known:
        to = _only_way(old, at)
        if to is None or to in seen or old.lines[at].insn.is_call or len(old.before[to]) != 1:
            return ()
        seen.add(to)
        at = to
    return tuple(known[at])


def _last(old: Flow, new: Flow, known: Known, at: int) -> tuple[int, ...]:
    """What follows the counterparts of the last neighbour, which may be a call itself."""
    seen = {at}
    while at not in known:
        before = old.before[at]
        if len(before) != 1 or before[0] == old.caller or before[0] in seen or _only_way(old, before[0]) is None:
            return ()
        (at,) = before
        seen.add(at)
        if at not in known and old.lines[at].insn.is_call:
            return ()
    behind = [_only_way(new, counterpart) for counterpart in known[at]]
    there = tuple(to for to in behind if to is not None and len(new.before[to]) == 1)
    return there if len(there) == len(behind) else ()


def _only_way(flow: Flow, at: int) -> int | None:
    """What is run next, where nothing decides that and control stays in the function."""
    ways = flow.ways[at]
    return ways[0].to if len(ways) == 1 and not flow.decides(at) else None

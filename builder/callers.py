"""The callers of what cannot be redirected, brought in: their objects are found, compiled, and made sure of.

What stands in `carry` as missing is looked for in the source; an object counts when the function's code in it is what
runs at that place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from builder.acquire.callers import Wanted, candidates, compiled_alike
from builder.acquire.compile import Compiling
from builder.acquire.kbuild import Command
from builder.acquire.pairs import ObjectPair
from builder.acquire.patch import PatchObjects
from builder.binary import read_object
from builder.compare import View
from builder.compose.carry import Caller
from builder.compose.owner import Objects
from builder.compose.runpre import Match, Matcher
from builder.errors import Refusal

log = logging.getLogger("bespoke.acquire")

TRIES: Final = 8
"""So many objects are compiled, at most, to find one function."""


def with_callers(found: PatchObjects, missing: Sequence[Caller], objects: Objects, how: Compiling) -> PatchObjects:
    """The objects of a patch and those of the `missing` callers that could be found; the same where there are none.

    With more objects than the limit nothing is compiled, and a warning says so.
    """
    if not missing:
        return found
    log.info("looking for %d callers of what cannot be redirected", len(missing))
    return found.tree.using(lambda: _with_callers(found, missing, objects, how))


def _with_callers(found: PatchObjects, missing: Sequence[Caller], objects: Objects, how: Compiling) -> PatchObjects:
    known = {pair.path for pair in found.pairs}
    open_ = {Wanted(caller.owner, caller.name, caller.calls): caller for caller in missing}
    added: dict[str, list[ObjectPair]] = {}
    tried = 0
    with found.tree.objects() as listed:
        places = candidates(open_, found.tree, listed, how.limit)
        for turn in range(TRIES):
            commands: dict[str, Command] = {}
            for want in open_:
                rows = [c for c in places[want] if c.object not in known]
                if turn < len(rows) and rows[turn].object not in added:
                    commands[rows[turn].object] = rows[turn]
            if len(known) + len(added) + len(commands) > how.limit:
                return _beyond(found, len(known) + len(added) + len(commands), how.limit)
            rows_made = compiled_alike(list(commands.values()), found.tree, how) if commands else []
            tried += len(commands)
            made = dict(zip(commands, rows_made, strict=True))
            for want, caller in list(open_.items()):
                rows = [c for c in places[want] if c.object not in known]
                here = rows[turn].object if turn < len(rows) else ""
                pairs = made.get(here, added.get(here, []))
                if any(_has(pair, caller, objects) for pair in pairs):
                    added[here] = pairs
                    del open_[want]
            if not open_:
                break
    more = tuple(pair for rows in added.values() for pair in rows)
    return replace(found, pairs=found.pairs + more, considered=found.considered + tried)


def _has(pair: ObjectPair, caller: Caller, objects: Objects) -> bool:
    """Whether an object has the code that runs at the caller's place."""
    if pair.owner != caller.owner:
        return False
    view = View(read_object(pair.old))
    matcher = Matcher(view, objects.get(pair.owner))
    return any(
        isinstance(matcher.match(atom, caller.start, name=caller.name, sympos=0), Match)
        for atom in view.functions
        if caller.name in atom.names
    )


def _beyond(found: PatchObjects, count: int, limit: int) -> PatchObjects:
    row = Refusal(
        "patch-many-users",
        found.files[0],
        "",
        f"{count} objects have callers of what cannot be redirected: more than the limit of {limit}",
        "raise the limit (--limit), or change fewer functions",
        fatal=False,
    )
    return replace(found, warnings=(*found.warnings, row))

"""Carriers in other files: a changed function that cannot be redirected travels with all who call it.

Where a file is built without ftrace (lib/, kernel/trace/), or a function is notrace, nothing leads calls of it to its
new version. The new version then is a copy in the module, and every function that calls the original is replaced by
one that calls the copy; a caller that cannot be redirected either travels as a copy itself, and so on. Who they are
is told by the running code (see `holders`), not by names. What keeps the address (a table, code that takes it, an
export that a module uses which is not there to be patched) would go on with the old version, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import Final, NamedTuple

from builder.compare import Atom
from builder.compose import holders, jumps
from builder.compose.bindings import find_running
from builder.compose.holders import Holder
from builder.compose.outcome import Diff
from builder.compose.owner import Objects, find_owner
from builder.compose.reselect import reselected
from builder.compose.running import Running, RunningImage, RunningModule
from builder.compose.runpre import Match, Matcher
from builder.compose.selection import MOST_CALLERS, Role
from builder.compose.traceable import file_has_fentry
from builder.errors import NOTHING, Allowed, KernelError, Refusal, RefusedError

_NAMED: Final = 6

# Sections of code that must not be instrumented: judged by name, whoever calls it.
_NOINSTR: Final = (".noinstr", ".entry", ".cpuidle")


class Caller(NamedTuple):
    """A function of `owner` that has to travel and is in no pair; `start` is its place, `calls` are the copies."""

    owner: str
    name: str
    start: int
    calls: tuple[str, ...]


@dataclass(frozen=True)
class Carried:
    """The pairs with all carriers that they have, and the callers that are `missing` among them."""

    diffs: tuple[Diff, ...]
    missing: tuple[Caller, ...] = ()


def carry(
    pairs: Sequence[tuple[Diff, str | None]],
    objects: Objects,
    *,
    allowed: Allowed = NOTHING,
    limit: int = MOST_CALLERS,
) -> Carried:
    """Let everything travel that calls what travels as a copy; each pair comes with the name of its owner, if known.

    Whoever would go on with the old version becomes a refusal of the pair whose function it is about (`no-ftrace-file`
    or `no-fentry`, for all of them can be accepted as one), those of `missing` too. A pair whose owner or whose running
    code is not plain stays as it is: binding says so.
    """
    if not any(open_copies(diff) for diff, _ in pairs):
        return Carried(tuple(diff for diff, _ in pairs))
    return _Carrying(pairs, objects, allowed, limit).run()


def open_copies(diff: Diff) -> list[Atom]:
    """The functions that travel as copies and whose callers are to be looked for."""
    vdso = any(name.startswith("__vdso_") for a in diff.comparison.new.functions for name in a.names)
    return [] if vdso else [a for a in diff.selection.unredirected if not a.section.name.startswith(_NOINSTR)]


@dataclass
class _Copy:
    """One function that travels as a copy: where its original is, and who leads there."""

    pair: int
    atom: Atom
    match: Match
    found: list[Holder] = field(default_factory=list)
    unknown: str = ""

    @property
    def name(self) -> str:
        return self.atom.name


class _Carrying:
    def __init__(
        self, pairs: Sequence[tuple[Diff, str | None]], objects: Objects, allowed: Allowed, limit: int
    ) -> None:
        self.diffs = [diff for diff, _ in pairs]
        self.objects = objects
        self.allowed = allowed
        self.limit = limit
        self.owners = [_owner(diff, objects, inside) for diff, inside in pairs]
        self.copies: dict[tuple[int, Atom], _Copy] = {}
        self.forced: list[dict[Atom, dict[str, None]]] = [
            {atom: dict.fromkeys(names) for atom, names in diff.selection.forced.items()} for diff, _ in pairs
        ]
        self.kept: dict[tuple[int, Atom], dict[str, dict[str, None]]] = {}
        """By the changed function that it is about: copy -> who keeps its address."""
        self.absent: dict[tuple[int, Atom], dict[Caller, None]] = {}
        self.lasting: set[tuple[int, Atom]] = set()
        """Those of `kept` whose address code that travels would hand out anew."""
        self.problems: list[list[Refusal]] = [[] for _ in pairs]
        self.noted: list[list[Refusal]] = [[] for _ in pairs]
        self._matchers: dict[int, Matcher] = {}
        self._parents: list[Mapping[Atom, Atom]] = [
            {part: parent for parent, parts in diff.comparison.old_children.items() for part in parts}
            for diff in self.diffs
        ]

    def run(self) -> Carried:
        while new := list(self._new_copies()):
            self._find_holders(new)
            for copy in new:
                if not self._too_many(copy):
                    for holder in copy.found:
                        self._hold(copy, holder)
            self._select()
        self._kept()
        missing = self._missing()
        for number, told in jumps.to_copies(self.diffs, list(self.copies)):
            self.noted[number].append(told)
        for number, diff in enumerate(self.diffs):
            self.diffs[number] = _judged(diff, self.problems[number], self.noted[number], self.allowed)
        return Carried(tuple(self.diffs), missing)

    def _new_copies(self) -> Iterator[_Copy]:
        for number, diff in enumerate(self.diffs):
            owner = self.owners[number]
            for atom in open_copies(diff) if owner is not None else ():
                if (number, atom) in self.copies or owner is None:
                    continue
                match = find_running(diff, owner, self.objects, diff.comparison.correlation.twins[atom])
                if isinstance(match, Match):
                    copy = self.copies[number, atom] = _Copy(number, atom, match)
                    yield copy

    def _find_holders(self, copies: Sequence[_Copy]) -> None:
        """What leads to each of them: in its own object, and for an exported one in the modules that use it."""
        by_owner: dict[str, list[_Copy]] = {}
        for copy in copies:
            by_owner.setdefault(self._owner(copy).name, []).append(copy)
        for rows in by_owner.values():
            owner, at = self._owner(rows[0]), {copy.match.place: copy for copy in rows}
            try:
                found = (
                    holders.in_image(owner, at)
                    if isinstance(owner, RunningImage)
                    else holders.in_module(owner, at)
                    if isinstance(owner, RunningModule)
                    else []
                )
            except KernelError as problem:
                for copy in rows:
                    self._refuse(copy, str(problem), "give the kernel as the vmlinuz that is booted")
                continue
            for holder in found:
                at[holder.entry].found.append(holder)
            for copy in rows:
                if any(holder.way == "export" for holder in copy.found):
                    self._users_elsewhere(copy, owner)

    def _users_elsewhere(self, copy: _Copy, owner: Running) -> None:
        """The modules that take an exported function from its owner."""
        names = list(dict.fromkeys(s.name for s in owner.at(copy.match.place)))
        known = [self.objects.modules_using(name) for name in names]
        if None in known:
            self._refuse(
                copy,
                f"{copy.name} is exported, and there is no module tree of {self.objects.kernel.release}: which "
                "modules use it cannot be told",
                "put the release's modules beside the image, or accept that modules go on with the old version",
            )
        users = {name for row in known for name in row or ()} | {n.replace("-", "_") for n in self.objects.given}
        users.discard(owner.name)
        self.noted[copy.pair].append(
            Refusal(
                "exported-copy",
                copy.name,
                copy.atom.section.name,
                f"{copy.name} is exported and cannot be redirected: a module that is neither in the tree of "
                f"{self.objects.kernel.release} nor given with --object goes on with the old version",
                "give such modules with --object NAME=PATH",
            )
        )
        if len(users) > self.limit:
            copy.unknown = f"{len(users)} modules use it"
            return
        for name in sorted(users):
            module = self.objects.module(name)
            if module is not None:
                copy.found += holders.in_module(module, (), names)

    def _too_many(self, copy: _Copy) -> bool:
        rows = {(h.object, h.name) for h in copy.found if h.way == "branch" and not self._is_over(h)}
        if len(rows) > self.limit:
            copy.unknown = f"{len(rows)} functions call it"
        if not copy.unknown:
            return False
        self._refuse(
            copy,
            f"{copy.name} has no ftrace location, and {copy.unknown}: more than the limit of {self.limit} can carry it",
            "change some of its callers instead, or raise the limit (--limit)",
        )
        return True

    def _hold(self, copy: _Copy, holder: Holder) -> None:
        """Judge one place that leads to the original of a copy."""
        if holder.way == "export" or self._is_over(holder):
            return
        pair, atom = self._atom(holder)
        if pair == copy.pair and atom is copy.atom:
            return  # it calls itself, or its own parts do
        if holder.way != "branch" or holder.section in holders.OF_ENTRIES:
            how = "" if holder.way == "data" else ", by its code"
            who = f"{holder.name or 'data'} of {holder.object} ({holder.section}{how})"
            self.kept.setdefault(self._root(copy), {}).setdefault(copy.name, {})[who] = None
            if pair is not None and holder.way == "address" and not holder.section.startswith(holders.BOOT):
                self.lasting.add(self._root(copy))
        elif holder.section.startswith(holders.BOOT):
            self._late(copy, holder)
        elif pair is None or atom is None:
            caller = Caller(holder.object, holder.name, holder.start, (copy.name,))
            self.absent.setdefault(self._root(copy), {})[caller] = None
        elif atom not in self.diffs[pair].selection.functions:
            self.forced[pair].setdefault(atom, {}).setdefault(copy.name)

    def _root(self, copy: _Copy) -> tuple[int, Atom]:
        """The changed function that a copy travels for: itself, or what the functions that it calls carry."""
        seen: set[tuple[int, Atom]] = set()
        work = [(copy.pair, copy.atom)]
        while work:
            pair, atom = work.pop()
            if self.diffs[pair].selection.functions.get(atom) is Role.CHANGED:
                return pair, atom
            seen.add((pair, atom))
            names = self.forced[pair].get(atom, {})
            inside = {callee for callee, row in self.diffs[pair].selection.carriers.items() if atom in row}
            work += [
                key
                for key, other in self.copies.items()
                if key not in seen and (other.name in names or key[1] in inside)
            ]
        return copy.pair, copy.atom

    @staticmethod
    def _is_over(holder: Holder) -> bool:
        """Code that will never run again: a direct call from the kernel's own start, and all that is for its end."""
        if holder.object != "vmlinux":
            return False
        return holder.section.startswith(holders.NEVER) or (
            holder.way == "branch" and holder.section.startswith(holders.BOOT)
        )

    def _atom(self, holder: Holder) -> tuple[int | None, Atom | None]:
        """The pair that has the function around a place, and that function in its new object."""
        owner = next((row for row in self.owners if row is not None and row.name == holder.object), None)
        if owner is None:
            return None, None
        names = {holder.name, *(s.name for s in owner.at(holder.start))}
        rows = [row for name in names for row in self._named.get((owner.name, name), ())]
        for number, old in sorted(dict.fromkeys(rows), key=itemgetter(0)):
            if not self._runs(number, old, holder):
                continue
            parent = self._parents[number].get(old, old)
            new = self.diffs[number].comparison.correlation.versions.get(parent)
            if new is not None:
                return number, new
        return None, None

    @cached_property
    def _named(self) -> Mapping[tuple[str, str], Sequence[tuple[int, Atom]]]:
        """Name of the owner and of a function -> old functions with the numbers of their pairs."""
        found: dict[tuple[str, str], list[tuple[int, Atom]]] = {}
        for number, owner in enumerate(self.owners):
            if owner is None:
                continue
            for old in self.diffs[number].comparison.old.functions:
                for name in old.names:
                    found.setdefault((owner.name, name), []).append((number, old))
        return found

    def _runs(self, number: int, old: Atom, holder: Holder) -> bool:
        owner = self.owners[number]
        assert owner is not None
        matcher = self._matchers.setdefault(number, Matcher(self.diffs[number].comparison.old, owner))
        return isinstance(matcher.match(old, holder.start, name=holder.name, sympos=0), Match)

    def _select(self) -> None:
        """Each pair again, with what it was found to have to carry."""
        for number, diff in enumerate(self.diffs):
            looked = frozenset(atom for pair, atom in self.copies if pair == number)
            forced = {atom: tuple(names) for atom, names in self.forced[number].items()}
            if looked != diff.selection.everywhere or forced != diff.selection.forced:
                self.diffs[number] = reselected(diff, self.allowed, forced=forced, everywhere=looked)

    def _kept(self) -> None:
        for root, rows in self.kept.items():
            copy = self.copies[root]
            held = [
                f"the address of {name} is kept by {_listed(who)}"
                if name != copy.name
                else f"{_listed(who)} keeps its address"
                for name, who in rows.items()
            ]
            by_hand = dict.fromkeys(
                h.name for name in rows for c in self.copies.values() if c.name == name
                for h in c.found if h.way == "branch" and not self._is_over(h) and h.name != name
            )  # fmt: skip
            direct = f"; direct callers are {_listed(by_hand)}" if by_hand else ""
            self._refuse(
                copy,
                f"{copy.name} has no ftrace location, and {_listed(held, '; ')}: what is called through that goes on "
                "with the old version",
                f"change what it is called from by hand{direct}",
                fatal=root in self.lasting,
            )

    def _missing(self) -> tuple[Caller, ...]:
        rows: dict[tuple[str, str, int], dict[str, None]] = {}
        for root, callers in self.absent.items():
            copy = self.copies[root]
            for caller in callers:
                rows.setdefault(caller[:3], {}).update(dict.fromkeys(caller.calls))
            self._refuse(
                copy,
                f"{copy.name} has no ftrace location, so whoever calls it must travel with it, and the objects of "
                f"these are not given: {_listed(f'{c.name} ({c.owner})' for c in callers)}",
                "give the pairs of their objects too, or the kernel's source (--source linux), from which they are "
                f"compiled, or accept that they go on with the old {copy.name}",
            )
        return tuple(Caller(*key, tuple(names)) for key, names in rows.items())

    def _late(self, copy: _Copy, holder: Holder) -> None:
        self._refuse(
            copy,
            f"{copy.name} has no ftrace location, and {holder.name} of module {holder.object} calls it when that is "
            f"loaded: it would call the old {copy.name}",
            f"accept it if {holder.object} is loaded, or if its start does not need the change",
        )

    def _refuse(self, copy: _Copy, message: str, advice: str, *, fatal: bool = False) -> None:
        old = self.diffs[copy.pair].comparison.old
        code = "no-fentry" if file_has_fentry(old) else "no-ftrace-file"
        row = Refusal(code, copy.name, copy.atom.section.name, message, advice, fatal=fatal)
        self.problems[copy.pair].append(row)

    def _owner(self, copy: _Copy) -> Running:
        owner = self.owners[copy.pair]
        assert owner is not None
        return owner


def _owner(diff: Diff, objects: Objects, inside: str | None) -> Running | None:
    """The owner of a pair that has something to carry or may have a caller; None where it is not plain."""
    try:
        return find_owner(diff, objects, inside)
    except RefusedError:
        return None


def _judged(diff: Diff, problems: Sequence[Refusal], noted: Sequence[Refusal], allowed: Allowed) -> Diff:
    """The diff with what was found out about its callers."""
    if not problems and not noted:
        return diff
    judged = diff.judged
    allowed |= judged.allowed
    rows = [row for row in dict.fromkeys(problems) if row not in judged.refusals and row not in judged.accepted]
    judged = replace(
        judged,
        refusals=(*judged.refusals, *(row for row in rows if not allowed.covers(row))),
        accepted=(*judged.accepted, *(row for row in rows if allowed.covers(row))),
        warnings=tuple(dict.fromkeys((*judged.warnings, *noted))),
        noted=tuple(dict.fromkeys((*judged.noted, *noted))),
    )
    return replace(diff, judged=judged)


def _listed(names: Iterable[str], between: str = ", ") -> str:
    rows = list(names)
    more = f"{between.rstrip()} and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return between.join(rows[:_NAMED]) + more.replace(", and", " and")


__all__ = ("Caller", "Carried", "carry", "open_copies")

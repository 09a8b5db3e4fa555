"""The bundle: all pairs of one module, bound, with what the module itself needs to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from builder.binary.kernel import Kernel
from builder.binary.ours import copy_of
from builder.compare import Atom
from builder.compose import late
from builder.compose.below import Earlier, Held
from builder.compose.bindings import bind_pair
from builder.compose.bound import Bound
from builder.compose.outcome import Diff
from builder.compose.owner import Objects, find_owner
from builder.compose.running import Running
from builder.errors import NOTHING, Allowed, Refusal, RefusedError, UnknownError


@dataclass(frozen=True)
class Bundle:
    """What one module carries."""

    name: str
    kernel: Kernel
    objects: Objects
    pairs: tuple[Bound, ...]
    replace: bool = False
    on: tuple[str, ...] = ()
    """The modules below that it is bound to, the nearest first."""
    accepted: tuple[Refusal, ...] = ()
    compiler: tuple[str, ...] = ()
    """Of a source patch: the version line of what compiled its objects, and the packages of one that was fetched."""
    beside: tuple[str, ...] = ()
    """The owners of what else is in the module, by name."""

    def symbol(self, atom: Atom) -> str:
        """The symbol that the module has for it."""
        return symbol_of(atom.name, self.objects, self._owners)

    @cached_property
    def _owners(self) -> tuple[str, ...]:
        """Each once: of many pairs most have the same one."""
        return tuple(dict.fromkeys((*(bound.owner.name for bound in self.pairs), *self.beside)))


def symbol_of(name: str, objects: Objects, owners: Iterable[str]) -> str:
    """The symbol that a module for these owners has for what it brings: the name itself only where nothing that runs is
    called so."""
    taken = objects.kernel.symbols_named(name) or any(objects.get(owner).named(name) for owner in owners)
    return copy_of(name) if taken else name


def bind(
    name: str,
    diffs: Sequence[tuple[Diff, str | None]],
    objects: Objects,
    *,
    replace: bool = False,
    below: Earlier | None = None,
    allowed: Allowed = NOTHING,
    beside: Sequence[str] = (),
) -> Bundle:
    """Find each pair's owner, where it is not said, and bind it; RefusedError lists all that stands in the way.

    `below` is the earlier livepatch that this one stacks on or, with `replace`, that it takes the place of; `beside`
    are the owners of what else will be in the module, by name.
    UnknownError names a table whose entries are of another form than the kernel's.
    """
    refusals: list[Refusal] = []
    accepted: list[Refusal] = []
    kept: list[Mapping[Atom, Held]] = [{} for _ in diffs]
    if below is not None and replace:
        for refusal in below.lost():
            (accepted if allowed.covers(refusal) else refusals).append(refusal)
        below = None
    elif below is not None:
        found = [below.keep(diff) for diff, _ in diffs]
        kept = [row for _, row in found]
        diffs = [(diff, inside) for (diff, _), (_, inside) in zip(found, diffs, strict=True)]
    owners: list[Running | None] = []
    for diff, inside in diffs:
        try:
            owners.append(find_owner(diff, objects, inside))
        except RefusedError as refused:
            refusals.extend(refused.refusals)
            owners.append(None)
    pairs = []
    brought = list(_brought([diff for diff, _ in diffs]))
    for (diff, _), held, owner in zip(diffs, kept, owners, strict=True):
        if owner is None:
            continue
        bound = bind_pair(diff, owner, objects, _provided(brought, owners, owner), below, held)
        if not bound.refusals:
            _require_forms(diff, objects.kernel)
            bound = late.check(bound, objects)
        pairs.append(bound)
        refusals.extend(bound.refusals)
    told = any(diff.judged.refusals for diff, _ in diffs)  # then that is why
    if not (refusals or told) and (idle := _without_effect(pairs)):
        (accepted if allowed.covers(idle) else refusals).append(idle)
    if refusals:
        raise RefusedError(refusals)
    chain = below.chain if below is not None else ()
    return Bundle(name, objects.kernel, objects, tuple(pairs), replace, chain, tuple(accepted), beside=tuple(beside))


def _brought(diffs: Sequence[Diff]) -> Iterator[tuple[str, int, Atom]]:
    """The names that pairs bring, each with the pair's number: new globals, and copies of global functions."""
    for number, diff in enumerate(diffs):
        yield from ((alias, number, atom) for alias, atom in brought_by(diff))


def brought_by(diff: Diff) -> Iterator[tuple[str, Atom]]:
    """Those of one pair."""
    selection, twins = diff.selection, diff.comparison.correlation.twins
    copies = frozenset(selection.unredirected)
    for atom in (*selection.functions, *selection.data):
        if atom.is_global and (atom not in twins or atom in copies):
            yield from ((alias, atom) for alias in atom.names)


def _provided(
    brought: Sequence[tuple[str, int, Atom]], owners: Sequence[Running | None], owner: Running
) -> Mapping[str, tuple[int, Atom]]:
    """What pairs of `owner` refer to by name and another pair brings.

    What the owner itself defines is its own, whatever another one has under that name.
    """
    found: dict[str, tuple[int, Atom]] = {}
    for alias, number, atom in sorted(brought, key=lambda row: owners[row[1]] is not owner):
        if owners[number] is owner or not owner.named(alias):
            found.setdefault(alias, (number, atom))
    return found


def _require_forms(diff: Diff, kernel: Kernel) -> None:
    """All table entries that travel have the size that the kernel takes them to have."""
    sections = diff.selection.view.obj.sections
    for entry in {entry.section: entry for row in diff.selection.entries.values() for entry in row}.values():
        size, struct = entry.end - entry.start, entry.table.struct
        if struct and size != (known := kernel.layout(struct).size):
            raise UnknownError(
                f"section {sections[entry.section].name} has entries of {size} bytes, and struct {struct} of "
                f"{kernel.release} has {known}: the object was made for another kernel",
                where=diff.new,
            )


def _without_effect(pairs: Sequence[Bound]) -> Refusal | None:
    """Why a module would change nothing that runs: it would redirect no function and call none."""
    selections = [bound.diff.selection for bound in pairs]
    if not selections or any(s.redirected or s.macros.callbacks or s.sets for s in selections):
        return None
    names = [atom.name for selection in selections for atom in selection.functions]
    return Refusal(
        "no-effect",
        names[0],
        "",
        f"nothing would take effect: {', '.join(names[:4])}{' and more' if len(names) > 4 else ''} would be there, and "
        "no function that runs would be replaced",
        "change what calls them as well, or call them from a callback (pre_patch)",
        fatal=False,
    )

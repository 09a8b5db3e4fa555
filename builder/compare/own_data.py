"""Data that the compiler makes for one place: which of the new object's is which of the old one's.

`__already_done.7` of a WARN_ON_ONCE has no name to be known by, and its content says nothing. Code that is the same
may refer to any of them, as long as it is always the same one: what tests a flag and what sets it agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from builder.binary import SectionIndex
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.correlate import Correlation
from builder.compare.uses import led_to
from builder.compare.verdict import Difference, Verdict
from builder.compare.view import View


def crossed(correlation: Correlation, same: Iterable[Atom]) -> Mapping[Atom, Difference]:
    """Those of the functions `same` (new ones, whose code was found to be equal) that take another's own data.

    One datum of the old object is one of the new object, in all of them; where they disagree, the most have it.
    """
    old, new = _places(correlation.old), _places(correlation.new)
    if not old or not new:
        return {}
    used = {
        atom: list(
            zip(
                _own_data(correlation.old, correlation.twins[atom], old),
                _own_data(correlation.new, atom, new),
                strict=False,  # code of one meaning may have a reference more: a NOP's, a mark's
            )
        )
        for atom in same
    }
    counted = Counter(pair for pairs in used.values() for pair in pairs)
    versions: dict[Atom, Atom] = {}
    taken: dict[Atom, Atom] = {}
    for (a, b), _ in counted.most_common():
        if a not in versions and b not in taken:
            versions[a], taken[b] = b, a
    return {
        atom: Difference(Verdict.CHANGED, f"{b.name} stands for {a.name} here, and for another elsewhere")
        for atom, pairs in used.items()
        for a, b in pairs
        if versions.get(a) is not b
    }


def _places(view: View) -> frozenset[SectionIndex]:
    """The sections that hold data of this kind whose identity matters: what is only read is its content."""
    return frozenset(
        atom.section.index
        for atom in view.data
        if atom.section.is_write and naming.is_never_paired(atom.name, atom.section.name)
    )


def _own_data(view: View, atom: Atom, places: frozenset[SectionIndex]) -> Iterator[Atom]:
    """The own data that code refers to, and that its table entries do, in order."""
    found = list(led_to(view, atom, places))
    symbols = view.obj.symbols
    for entry in view.telling.get(atom, ()):
        targets = (view.target(r) for r in entry.relocations if symbols[r.symbol].shndx in places)
        found += [t.atom for t in targets if t.atom is not None]
    return (own for own in found if naming.is_never_paired(own.name, own.section.name))

"""How code uses a datum: what tells static locals of one name apart when their function changed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final

from builder.arch import Instruction
from builder.binary import SectionIndex
from builder.compare.atoms import Atom
from builder.compare.view import View

Use = tuple[Hashable, ...]
_CLEARLY: Final = 0.15
"""By how much (of 1) the likeness of two surroundings has to exceed that of any others."""
_AROUND = 4
"""Instructions before and behind a reference that are looked at where the reference itself does not tell."""


def led_to(view: View, atom: Atom, sections: frozenset[SectionIndex] | None = None) -> Iterator[Atom]:
    """Atoms that the relocations of `atom` lead to (in `sections` only), in order, repeated as they come."""
    if sections is not None and sections.isdisjoint(view.reaches(atom.section.index)):
        return
    symbols = view.obj.symbols
    rows = view.relocations(atom)
    if sections is not None:
        rows = [r for r in rows if symbols[r.symbol].shndx in sections]  # most lead elsewhere
    for relocation in rows:
        atoms = view.atoms_in(symbols[relocation.symbol].shndx)
        if not atoms:
            continue
        if len(atoms) == 1:
            yield atoms[0]  # wherever in it: nothing has to be decoded
            continue
        found = view.reached(atom, relocation)
        if found is not None:
            yield found


def uses(view: View, functions: Iterable[Atom], datum: Atom, around: int = 0) -> tuple[Use, ...]:
    """What is done with a datum at each place in some functions, sorted: the same for the same uses in any order.

    Operations with their constants, without registers; `around` is how many instructions on each side count too.
    """
    found: list[Use] = []
    for function in functions:
        rows = [row for row in view.instructions(function) if not row.is_nop]
        for k, row in enumerate(rows):
            if _refers(view, function, row, datum):
                near = rows[max(k - around, 0) : k + around + 1]
                found.append(tuple(_what(view, function, one) for one in near))
    return tuple(sorted(found, key=repr))


def tell_apart(
    old: View, olds: Sequence[Atom], old_functions: Sequence[Atom],
    new: View, news: Sequence[Atom], new_functions: Sequence[Atom],
) -> bool:  # fmt: skip
    """Whether two equally long lists of data are, in order, the same.

    By their uses, where no two of a list are used alike; or by what is done around those, where each is clearly more
    like the one in its place than like any other: order and use then say the same.
    """
    from difflib import SequenceMatcher  # here, for it is slow to import and names mostly tell

    for around in (0, _AROUND):
        before = [uses(old, old_functions, atom, around) for atom in olds]
        after = [uses(new, new_functions, atom, around) for atom in news]
        if before == after and len(set(before)) == len(before):
            return True
    alike = [
        [
            SequenceMatcher(None, first, second, autojunk=False).ratio()
            for second in _all_around(new, news, new_functions)
        ]
        for first in _all_around(old, olds, old_functions)
    ]
    order = range(len(olds))
    return all(alike[k][k] > max(alike[k][n], alike[n][k]) + _CLEARLY for k in order for n in order if n != k)


def _all_around(view: View, data: Sequence[Atom], functions: Sequence[Atom]) -> list[list[Hashable]]:
    return [_surroundings(view, functions, datum) for datum in data]


def _surroundings(view: View, functions: Iterable[Atom], datum: Atom) -> list[Hashable]:
    """All that is done at, right before and right behind the uses of a datum, in order."""
    out: list[Hashable] = []
    for function in functions:
        rows = [row for row in view.instructions(function) if not row.is_nop]
        near = {
            n
            for k, row in enumerate(rows)
            if _refers(view, function, row, datum)
            for n in range(k - _AROUND, k + _AROUND + 1)
        }
        out += [_what(view, function, row) for k, row in enumerate(rows) if k in near]
    return out


def _refers(view: View, function: Atom, row: Instruction, datum: Atom) -> bool:
    return any(target.atom is datum for _, target in view.references(function, row))


def _what(view: View, function: Atom, row: Instruction) -> Hashable:
    """One instruction without registers; names of what it refers to where those are not the compiler's."""
    operation = view.arch.operation(function.section.data[row.offset : row.end])
    if row.target is not None:
        return operation.form
    names: list[Hashable] = []
    for _, target in view.references(function, row):
        if target.kind == "symbol":
            names.append(target.symbol.name)
        elif target.section is not None and target.section.is_string:
            names.append(target.section.string_at(target.place))
    return (operation.form, operation.constants, tuple(names))

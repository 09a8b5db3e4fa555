"""How code uses a datum: what tells static locals of one name apart when their function changed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from builder.arch import Instruction
from builder.compare.view import Atom, View

Use = tuple[Hashable, ...]
_AROUND = 4
"""Instructions before and behind a reference that are looked at where the reference itself does not tell."""


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

    By their uses, where no two of a list are used alike; or because nothing changed places: all that one side's
    functions do, the other's do in the same order.
    """
    for around in (0, _AROUND):
        before = [uses(old, old_functions, atom, around) for atom in olds]
        after = [uses(new, new_functions, atom, around) for atom in news]
        if before == after and len(set(before)) == len(before):
            return True
    first, second = _done(old, old_functions), _done(new, new_functions)
    return _goes_through(first, second) or _goes_through(second, first)


def _done(view: View, functions: Iterable[Atom]) -> list[Hashable]:
    return [_what(view, f, row) for f in functions for row in view.instructions(f) if not row.is_nop]


def _goes_through(part: Sequence[Hashable], whole: Sequence[Hashable]) -> bool:
    """Whether `whole` has all of `part`, in order, and only more between."""
    rest = iter(whole)
    return all(one in rest for one in part)


def _refers(view: View, function: Atom, row: Instruction, datum: Atom) -> bool:
    relocations = view.relocations_in(function.section.index, row.offset, row.end)
    return any(view.target(r, view.bias(function, r)).atom is datum for r in relocations)


def _what(view: View, function: Atom, row: Instruction) -> Hashable:
    """One instruction without registers; names of what it refers to where those are not the compiler's."""
    operation = view.arch.operation(function.section.data[row.offset : row.end])
    if row.target is not None:
        return operation.form
    names: list[Hashable] = []
    for r in view.relocations_in(function.section.index, row.offset, row.end):
        target = view.target(r, view.bias(function, r))
        if target.kind == "symbol":
            names.append(target.symbol.name)
        elif target.section is not None and target.section.is_string:
            names.append(target.section.string_at(target.offset))
    return (operation.form, operation.constants, tuple(names))

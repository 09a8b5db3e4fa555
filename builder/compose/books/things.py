"""Each function and datum of both objects: paired, travelling, or taken by a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from builder.binary import tables
from builder.compare import Atom, naming
from builder.compare.storage import Lifetime, lifetime
from builder.compose.books.rules import Ignored, Note, Pair, section_rule
from builder.compose.selection import is_trampoline


def things(pair: Pair) -> Iterator[Note]:
    """Each function and datum of both objects: paired, travelling, or taken by a rule."""
    for atom in pair.new.atoms:
        if atom in pair.twins:
            yield from _paired(pair, atom, pair.twins[atom])
        elif atom not in pair.selection:
            yield from _new(pair, atom)
    own = [
        Counter(naming.family(atom.name) for atom in view.data if naming.is_never_paired(atom.name, atom.section.name))
        for view in (pair.old, pair.new)
    ]
    for name in sorted((own[0] - own[1]) + (own[1] - own[0])):
        yield Ignored("own", name)
    for atom in pair.old.atoms:
        if atom not in pair.versions and not naming.is_never_paired(atom.name, atom.section.name):
            yield Ignored("discarded" if tables.is_discarded(atom.section.name) else "removed", atom.name)


def _paired(pair: Pair, new: Atom, old: Atom) -> Iterator[Note]:
    if new.is_function:
        verdict = pair.selection.comparison.functions.get(new)
        if verdict is not None and not verdict.is_changed:
            for rule in verdict.excused:
                yield Ignored(rule, new.name)
        elif verdict is not None and new not in pair.selection and pair.selection.macros.ignores(new):
            yield Ignored("author", new.name)
    elif new not in pair.selection.comparison.data and not (
        old.section.name == new.section.name and pair.meanings.is_same_content(old, new)  # the comparison judges others
    ):
        yield Ignored(section_rule(new.section.name), new.name)


def _new(pair: Pair, atom: Atom) -> Iterator[Note]:
    if naming.is_never_paired(atom.name, atom.section.name):
        return  # judged by content, where it is used
    if tables.is_discarded(atom.section.name):
        yield Ignored(section_rule(atom.section.name), atom.name)
    elif is_trampoline(atom) or naming.cold_parent(atom.name) is not None:
        return  # goes with its key, or its function
    elif atom.is_function and atom.section.is_exec and lifetime(atom.section.name) is not Lifetime.LIVE:
        yield Ignored("start-only", atom.name)
    else:
        yield Ignored("unused", atom.name)

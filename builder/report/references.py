"""What the functions of a change refer to, and what a module that was written binds that to."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from builder.binary import ObjectFile, SectionIndex, SectionOffset, SymbolIndex, elf, klp
from builder.binary.ours import copy_of
from builder.compare import Atom
from builder.compose.outcome import Diff

Way = Literal["original", "entry", "elsewhere", "carried"]


@dataclass(frozen=True, slots=True)
class ShownBinding:
    """What a symbol of a written module resolves to; `object` is empty for what the kernel exports to everybody."""

    symbol: str
    object: str
    sympos: int


@dataclass(frozen=True, slots=True)
class ShownReference:
    """What one function refers to, `count` times.

    `way`: an `original` of the same object, the original's `entry` of a
    replaced function, a symbol from `elsewhere`, or what is `carried` along.
    `binding` is None until a module binds it.
    """

    name: str
    kind: str
    way: Way
    count: int
    binding: ShownBinding | None


Bindings = Mapping[str, tuple[ShownBinding, ...]]
"""Symbol of a function in a module -> what its relocations are bound to."""


def references_of(diff: Diff, atom: Atom, bindings: Bindings) -> tuple[ShownReference, ...]:
    """What a function that travels refers to by name, in order of way and name; strings and constants left out."""
    selection = diff.selection
    twins = diff.comparison.correlation.twins
    redirected = set(selection.redirected)
    bound = bindings.get(atom.name) or bindings.get(copy_of(atom.name), ())
    here = {b.symbol: b for b in bound}
    found: Counter[tuple[Way, str, str, tuple[str, ...]]] = Counter()
    for _, target in selection.view.leads_of(atom):
        if target.kind == "symbol":
            found["elsewhere", target.symbol.name, "symbol", (target.symbol.name,)] += 1
        elif target.atom is not None and not (target.atom is atom and target.offset):
            other = target.atom
            local = selection.is_local(atom, target)
            old = None if local else twins.get(other)
            kind = _kind(old or other)
            way: Way = "carried" if local else "entry" if other in redirected else "original"
            found[way, (old or other).name, kind, (old or other).names] += 1
    order: tuple[Way, ...] = ("original", "entry", "elsewhere", "carried")
    rows = sorted(found.items(), key=lambda row: (order.index(row[0][0]), row[0][1]))
    return tuple(
        ShownReference(name, kind, way, count, next((here[n] for n in names if n in here), None))
        for (way, name, kind, names), count in rows
    )


def _kind(atom: Atom) -> str:
    scope = "" if atom.is_global else "static "
    return scope + ("function" if atom.is_function else "variable")


def bindings_in(module: ObjectFile) -> Bindings:
    """Symbol -> bindings, as a written module has them: livepatch symbols, and undefined ones for exports."""
    functions: dict[SectionIndex, list[tuple[SectionOffset, SectionOffset, str]]] = {}
    for symbol in module.symbols:
        if symbol.is_function and symbol.is_defined:
            functions.setdefault(symbol.shndx, []).append((symbol.value, symbol.value + symbol.size, symbol.name))
    for rows in functions.values():
        rows.sort()
    out: dict[str, dict[ShownBinding, None]] = {}
    for index, relocations in module.relocations.items():
        rows = functions.get(SectionIndex(module.sections[index].info), [])
        for r in relocations if rows else ():
            at = bisect_right(rows, r.offset, key=lambda row: row[0]) - 1
            binding = _binding(module, r.symbol)
            if binding is not None and at >= 0 and r.offset < rows[at][1]:
                out.setdefault(rows[at][2], {})[binding] = None
    return {name: tuple(found) for name, found in out.items()}


def _binding(module: ObjectFile, index: SymbolIndex) -> ShownBinding | None:
    symbol = module.symbols[index]
    if symbol.is_undefined:
        return ShownBinding(symbol.name, "", 0)
    if not klp.is_symbol(symbol.name) or symbol.shndx != elf.LIVEPATCH:
        return None
    found = klp.parse_symbol(symbol.name)
    return ShownBinding(found.name, found.object, found.sympos)

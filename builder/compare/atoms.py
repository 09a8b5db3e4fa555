"""Atoms: a section divided at its symbols into functions and data."""

from __future__ import annotations

from dataclasses import dataclass

from builder.binary import Section, SectionOffset, Symbol, elf
from builder.compare import naming


@dataclass(frozen=True, slots=True, eq=False)
class Atom:
    """A function or datum: bytes [start, end) of a section; compared by identity.

    `entry` is the offset of its symbol, after the padding that
    -fpatchable-function-entry puts before it. `names` are all its aliases.
    """

    name: str
    symbol: Symbol
    section: Section
    start: SectionOffset
    end: SectionOffset
    entry: SectionOffset
    names: tuple[str, ...]
    is_function: bool
    is_global: bool

    @property
    def size(self) -> int:
        return self.end - self.entry

    def __repr__(self) -> str:
        return f"<{'function' if self.is_function else 'data'} {self.name} {self.section.name}+{self.start:#x}>"


def cut(section: Section, symbols: tuple[Symbol, ...], nop: bytes) -> list[Atom]:
    """Divide a section at its symbols; aliases of one value make one atom."""
    if len(symbols) == 1 and not symbols[0].value:
        return [] if _is_marker(symbols[0]) else [_whole(section, symbols[0])]
    starts: dict[SectionOffset, list[Symbol]] = {}
    for symbol in symbols:
        if symbol.value <= section.size and not _is_marker(symbol):
            starts.setdefault(symbol.value, []).append(symbol)
    if not starts:
        return []
    groups: list[tuple[SectionOffset, list[Symbol]]] = []
    first, last = section.extent
    reach = first
    for value, row in sorted(starts.items()):
        if groups and value < reach and not any(s.is_function for s in row):
            continue  # a label or an object inside a larger one
        groups.append((value, row))
        reach = max(reach, value + max(s.size for s in row))
    padding = _padding(section, groups[0][0], nop) or _hash(section, groups[0][0], symbols)
    atoms = []
    for position, (value, row) in enumerate(groups):
        following = groups[position + 1][0] - padding if position + 1 < len(groups) else last
        size = max(s.size for s in row)
        alone = len(groups) == 1
        end = following if alone or not size else max(min(value + size, following), value)
        primary = _primary(section, row)
        atoms.append(
            Atom(
                name=primary.name,
                symbol=primary,
                section=section,
                start=max(value - padding, first) if section.is_exec else value,
                end=end,
                entry=value,
                names=tuple(s.name for s in row),
                is_function=section.is_exec and any(s.type in (elf.STT_FUNC, elf.STT_NOTYPE) for s in row),
                is_global=any(not s.is_local for s in row),
            )
        )
    return atoms


def _whole(section: Section, symbol: Symbol) -> Atom:
    """The one thing in a section of its own, as -ffunction-sections and -fdata-sections make them."""
    function = section.is_exec and symbol.type in (elf.STT_FUNC, elf.STT_NOTYPE)
    start, end = section.extent
    return Atom(symbol.name, symbol, section, start, end, start, (symbol.name,), function, not symbol.is_local)


def _is_marker(symbol: Symbol) -> bool:
    """A label without size, or the name of the padding before a function (CONFIG_PREFIX_SYMBOLS)."""
    return (naming.is_label(symbol.name) and not symbol.size) or naming.is_marker(symbol.name)


def _padding(section: Section, first: int, nop: bytes) -> int:
    """Bytes of NOP before the first function of a section (-fpatchable-function-entry=N,M)."""
    count, rest = divmod(first, len(nop))
    return first if section.is_exec and not rest and section.data[:first] == nop * count else 0


def _hash(section: Section, first: int, symbols: tuple[Symbol, ...]) -> int:
    """Bytes before the first function that hold the hash of its type (CONFIG_CFI_CLANG): `__cfi_NAME` names them."""
    named = section.is_exec and any(naming.is_marker(symbol.name) and not symbol.value for symbol in symbols)
    return first if named else 0


def _primary(section: Section, row: list[Symbol]) -> Symbol:
    """Of aliases: the one the section is named after, else the first function, the local before the global."""
    for symbol in row:
        if section.name.endswith("." + symbol.name):
            return symbol
    typed = [s for s in row if s.type in (elf.STT_FUNC, elf.STT_OBJECT)] or row
    return min(typed, key=lambda s: (not s.is_local, s.index))

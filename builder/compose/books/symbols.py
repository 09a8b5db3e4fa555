"""What symbols say beside where they lead: type, binding, visibility, size, and whether they are there at all."""

from __future__ import annotations

from collections.abc import Iterator

from builder.binary import Symbol, elf, tables
from builder.compare import Atom, View, naming
from builder.compose.books.rules import Ignored, Note, Pair, left


def symbols(pair: Pair) -> Iterator[Note]:
    """What a name is, beside where it leads (builder/compose/identity.py): type, binding, visibility, size."""
    before, after = _named(pair.old), _named(pair.new)
    for name, first, second in _numbered_in_both(pair.old, pair.new):
        yield from _same_notes(pair, name, first, second)
    for name, new in after.items():
        old = before.get(name)
        if old is None or old.shndx == new.shndx == elf.SHN_UNDEF:
            continue
        if old.is_undefined or new.is_undefined:
            yield from _defined(pair, name, old, new)
        elif old.is_defined and new.is_defined:
            yield from _same_symbol(pair, name, old, new)
        elif (old.shndx, old.value) != (new.shndx, new.value):
            yield left(name, "", f"{name} was {_place(pair.old, old)}, and is {_place(pair.new, new)}")
    for name, old in before.items():
        if old.is_defined and name not in after and old.type != elf.STT_NOTYPE and not _is_dropped(pair, old):
            yield Ignored("removed", name)


def _is_dropped(pair: Pair, symbol: Symbol) -> bool:
    """A removed name of a thing that is judged under another name, or of no thing at all."""
    atom = pair.old.atom_at(symbol.shndx, symbol.value)
    return atom is None or atom in pair.versions or atom.name != symbol.name


def _defined(pair: Pair, name: str, old: Symbol, new: Symbol) -> Iterator[Note]:
    """A name that was defined here and elsewhere now, or the other way round."""
    if new.is_undefined:
        yield Ignored("removed", name)  # what refers to it refers to another thing, which the comparison sees
    else:
        atom = pair.new.atom_at(new.shndx, new.value)
        if atom is None or (atom not in pair.selection and not tables.is_discarded(atom.section.name)):
            yield Ignored("unused", name)


def _same_symbol(pair: Pair, name: str, old: Symbol, new: Symbol) -> Iterator[Note]:
    olds, news = pair.old.atoms_in(old.shndx), pair.new.atoms_in(new.shndx)
    if old[2:7] == new[2:7] and len(olds) == len(news) == 1 and _covers_both(olds[0], news[0], old.value):
        return  # all that is said of it is the same, and it lies in the same place of the one thing of its section
    a, b = pair.old.atom_at(old.shndx, old.value), pair.new.atom_at(new.shndx, new.value)
    if (a is None) != (b is None) or (a is not None and b is not None and a.is_function != b.is_function):
        yield left(name, pair.new.obj.sections[new.shndx].name, f"{name} was {_kind(a)}, and is {_kind(b)}")
        return
    if a is None and old.value != new.value and not naming.is_numbered(name):
        section = pair.new.obj.sections[new.shndx].name
        if tables.is_discarded(section):
            yield Ignored("discarded", name)
        elif tables.BY_NAME.get(section) is None:
            yield left(name, section, f"{name} is at {new.value:#x} of {section}, and was at {old.value:#x}")
    if b is not None and old.value - (a.entry if a else 0) != new.value - b.entry and naming.is_marker(name):
        yield Ignored("marker", name)
    yield from _same_notes(pair, name, old, new)


def _covers_both(old: Atom, new: Atom, value: int) -> bool:
    """Whether an offset lies in two things of one kind, as far behind the entry in the one as in the other."""
    within = old.start <= value <= old.end and new.start <= value <= new.end
    return within and old.entry == new.entry and old.is_function == new.is_function


def _same_notes(pair: Pair, name: str, old: Symbol, new: Symbol) -> Iterator[Note]:
    """What a symbol says beside its place."""
    if old.type != new.type:
        if {old.type, new.type} <= {elf.STT_FUNC, elf.STT_NOTYPE, elf.STT_OBJECT}:
            yield Ignored("symbol-type", name)
        else:
            yield left(name, "", f"symbol {name} was of type {old.type}, and is of type {new.type}")
    if (old.bind, old.other) != (new.bind, new.other):
        yield Ignored("linkage", name)
    if old.size != new.size:
        a, b = pair.old.atom_at(old.shndx, old.value), pair.new.atom_at(new.shndx, new.value)
        if a is None or b is None or (a.size == b.size and not pair.is_judged(b)):
            yield Ignored("symbol-size", name)


def _named(view: View) -> dict[str, Symbol]:
    """Symbols by name, those that have one and are the only ones of it; no sections, files, labels, numbered names."""
    out: dict[str, Symbol] = {}
    double: set[str] = set()
    for symbol in view.obj.symbols:
        name = symbol.name
        if not name or symbol.type in (elf.STT_SECTION, elf.STT_FILE) or naming.is_label(name):
            continue
        if name in out:
            double.add(name)
        out[name] = symbol
    return {name: s for name, s in out.items() if name not in double and not naming.is_numbered(name)}


def _place(view: View, symbol: Symbol) -> str:
    if symbol.is_defined:
        return f"in {view.obj.sections[symbol.shndx].name}"
    if symbol.shndx == elf.COMMON:
        return f"a common symbol of {symbol.size} bytes, aligned to {symbol.value}"
    return f"the absolute value {symbol.value:#x}" if symbol.shndx == elf.ABS else f"of section {symbol.shndx:#x}"


def _kind(atom: Atom | None) -> str:
    if atom is None:
        return "no thing of its own"
    return f"{'code' if atom.is_function else 'data'} in {atom.section.name}"


def _numbered_in_both(old: View, new: View) -> Iterator[tuple[str, Symbol, Symbol]]:
    """Symbols of one name with a number: one thing where nothing was numbered anew."""
    before = {symbol.name: symbol for symbol in _numbered(old)}
    for symbol in _numbered(new):
        if symbol.name in before:
            yield symbol.name, before[symbol.name], symbol


def _numbered(view: View) -> Iterator[Symbol]:
    for rows in view.obj.symbols_in.values():
        yield from (symbol for symbol in rows if naming.is_numbered(symbol.name) or naming.is_label(symbol.name))

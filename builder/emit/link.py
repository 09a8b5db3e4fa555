"""The one in-process link: fragments and glue in, one relocatable module out.

Fragments of one kind share an output section. Livepatch relocations come last,
in sections of their own for each patched object and target section.

Where the kernel walks all of its symbols for each of those (klp_find_object_symbol, kernel/livepatch/core.c, up to
6.1), each symbol of vmlinux has just one of them. These come first: the loader applies tables of relocations in the
order of the sections, and a symbol keeps the value that it was given (apply_relocations, kernel/module/main.c), so that
all other references to it are ordinary relocations. What belongs to another module is written when that is loaded,
by livepatch alone, and has no such way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from builder.acquire import bounds
from builder.arch import Architecture
from builder.binary import ObjectFile, Relocation, Section, SectionIndex, SectionOffset, Symbol, SymbolIndex, elf, klp
from builder.compose.bound import Binding
from builder.emit.fragments import ABSOLUTE, Fragment, Key, Label
from builder.errors import InputError

# Sections in the order in which a person would look for them; others follow by name.
_ORDER = (".text", ".init.text", ".exit.text", ".rodata", ".rodata.str1.1", ".data", ".bss")


@dataclass
class _Output:
    name: str
    flags: int
    type: int
    entsize: int
    align: int = 1
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    plain: list[tuple[SectionOffset, int, str, int]] = field(default_factory=list)
    late: dict[str, list[tuple[SectionOffset, int, str, int]]] = field(default_factory=dict)
    labels: list[Label] = field(default_factory=list)


class LinkedPlace(NamedTuple):
    """Where a fragment came to lie; `entry` is the offset that references to it start from."""

    section: str
    offset: SectionOffset
    entry: int


class Linker:
    """Lays out fragments and glue, then writes the tables."""

    def __init__(self, arch: Architecture, name: str, *, bind_once: bool = False) -> None:
        self.arch = arch
        self.name = name
        self.bind_once = bind_once
        self.places: dict[Key, LinkedPlace] = {}
        self._outputs: dict[str, _Output] = {}
        self._strings: dict[bytes, int] = {}
        self._globals: dict[str, tuple[str, SectionOffset, int, int]] = {}
        self._used: dict[str, None] = {}
        self._bound: set[str] = set()
        self._size = 0

    def add(self, fragments: Sequence[Fragment]) -> None:
        """Give every fragment its place."""
        for fragment in fragments:
            out = self._output(fragment.section, fragment.flags, fragment.nobits, fragment.entsize)
            if fragment.entsize == 1 and not fragment.references:
                offset = self._string(out, fragment.data)
            else:
                offset = self._append(out, fragment.data, fragment.size, fragment.align)
            place = LinkedPlace(fragment.section, SectionOffset(offset), offset + fragment.entry)
            self.places[fragment.key] = place
            out.labels += [Label(s.name, offset + s.offset, s.size, s.type) for s in fragment.labels]

    def _output(self, name: str, flags: int, nobits: bool, entsize: int) -> _Output:
        kind = elf.SHT_NOBITS if nobits else elf.SHT_PROGBITS
        if (out := self._outputs.get(name)) is None:
            out = self._outputs[name] = _Output(name, flags, kind, entsize)
        out.flags |= flags
        if out.entsize != entsize:
            out.entsize = 0
        if out.type == elf.SHT_NOBITS != kind:
            raise InputError(f"section {name} would mix data with and without bytes", where=self.name)
        return out

    def _string(self, out: _Output, data: bytes) -> int:
        """Equal strings are stored once."""
        found = self._strings.get(data)
        if found is None:
            found = self._strings[data] = self._append(out, data, len(data), 1)
        return found

    def _append(self, out: _Output, data: bytes, size: int, align: int) -> int:
        out.align = max(out.align, align)
        offset = -(-out.size // align) * align
        self._size += offset + size - out.size
        if self._size > bounds.FREE:
            raise InputError(f"the module would be larger than {bounds.FREE >> 20} MiB", where=self.name)
        if out.type != elf.SHT_NOBITS:
            filler = self.arch.filler if out.flags & elf.SHF_EXECINSTR else b"\0"
            out.data += filler * (offset - len(out.data)) + data
        out.size = offset + size
        return offset

    def add_glue(self, glue: ObjectFile, symbols: Mapping[str, Key]) -> None:
        """Append the assembled glue; its undefined `symbols` are keys of fragments."""
        moved: dict[SectionIndex, tuple[str, int]] = {}
        for section in glue.sections:
            if section.type not in (elf.SHT_PROGBITS, elf.SHT_NOBITS) or not section.size or not section.is_alloc:
                continue
            out = self._output(section.name, section.flags, section.is_nobits, section.entsize)
            moved[section.index] = (section.name, self._append(out, section.data, section.size, section.alignment))
        for symbol in glue.symbols:
            if symbol.shndx in moved and symbol.name and symbol.type != elf.STT_SECTION:
                name, offset = moved[symbol.shndx]
                if symbol.bind == elf.STB_GLOBAL:
                    self._globals[symbol.name] = (name, offset + symbol.value, symbol.size, symbol.type)
                elif not symbol.name.startswith(".L"):
                    self._outputs[name].labels.append(
                        Label(symbol.name, offset + symbol.value, symbol.size, symbol.type)
                    )
        for index, (name, offset) in moved.items():
            out = self._outputs[name]
            for r in glue.relocations_of(index):
                symbol = glue.symbols[r.symbol]
                if symbol.name in symbols:
                    place = self.places[symbols[symbol.name]]
                    row = (offset + r.offset, r.type, f"\0{place.section}", place.entry + r.addend)
                elif symbol.shndx in moved and symbol.bind != elf.STB_GLOBAL:
                    target, base = moved[symbol.shndx]
                    row = (offset + r.offset, r.type, f"\0{target}", base + symbol.value + r.addend)
                else:
                    self._used.setdefault(symbol.name)
                    row = (offset + r.offset, r.type, symbol.name, r.addend)
                out.plain.append(row)

    def resolve(self, fragments: Sequence[Fragment]) -> None:
        """Turn references into relocations of the output sections."""
        for fragment in fragments:
            place = self.places[fragment.key]
            out = self._outputs[place.section]
            if fragment.entsize == 1 and not fragment.references:
                continue
            for r in fragment.references:
                offset = place.offset + r.offset
                if isinstance(r.to, Binding):
                    self._used.setdefault(r.to.symbol)
                    row = (offset, r.type, r.to.symbol, r.addend)
                    if r.to.kind == "export" or r.to.symbol in self._bound:
                        out.plain.append(row)
                    else:
                        out.late.setdefault(r.to.patched, []).append(row)
                        if self.bind_once and r.to.patched == klp.VMLINUX:
                            self._bound.add(r.to.symbol)
                    continue
                if r.to == ABSOLUTE:
                    out.plain.append((offset, r.type, "", r.addend))
                    continue
                target = self.places[r.to]
                out.plain.append((offset, r.type, f"\0{target.section}", target.entry + r.addend))

    def object(self, beside: Mapping[str, bytes], notes: Mapping[str, bytes]) -> ObjectFile:
        """The module; what is `beside` it becomes sections that are not loaded, `notes` ELF notes that are."""
        ordered = sorted(
            self._outputs.values(), key=lambda o: (_ORDER.index(o.name) if o.name in _ORDER else len(_ORDER), o.name)
        )
        index = {out.name: SectionIndex(k) for k, out in enumerate(ordered, 1)}
        symbols, number = self._symbols(ordered, index)
        null = Section(SectionIndex(0), "", elf.SHT_NULL, 0, 0, b"", align=0)
        sections = [null]
        for out in ordered:
            size = out.size if out.type == elf.SHT_NOBITS else len(out.data)
            data = b"" if out.type == elf.SHT_NOBITS else bytes(out.data)
            sections.append(
                Section(
                    index[out.name], out.name, out.type, out.flags, size, data, align=out.align, entsize=out.entsize
                )
            )
        rows = [(name, elf.SHT_NOTE, elf.SHF_ALLOC, content, 4) for name, content in notes.items()]
        rows += [(name, elf.SHT_PROGBITS, 0, content, 1) for name, content in beside.items()]
        for name, kind, flags, content, align in rows:
            here = SectionIndex(len(sections))
            sections.append(Section(here, name, kind, flags, len(content), content, align=align))
        plain = [o for o in ordered if o.plain]
        late = [(o, patched) for o in ordered for patched in sorted(o.late)]
        first = [(o, patched) for o, patched in late if self.bind_once and patched == klp.VMLINUX]
        before = len(sections) + len(first) + len(plain)
        symtab, strtab, shstrtab = (SectionIndex(before + k) for k in range(3))
        relocations: dict[SectionIndex, tuple[Relocation, ...]] = {}

        def add_rela(
            name: str, target: SectionIndex, flags: int, rows: list[tuple[SectionOffset, int, str, int]]
        ) -> None:
            here = SectionIndex(len(sections))
            relocations[here] = tuple(Relocation(o, t, number[s], a) for o, t, s, a in sorted(rows))
            size = 24 * len(rows)
            sections.append(
                Section(here, name, elf.SHT_RELA, flags, size, b"", link=symtab, info=target, align=8, entsize=24)
            )

        def add_klp(rows: Sequence[tuple[_Output, str]]) -> None:
            flags = elf.SHF_ALLOC | elf.SHF_RELA_LIVEPATCH
            for out, patched in rows:
                add_rela(klp.section_name(patched, out.name), index[out.name], flags, out.late[patched])

        add_klp(first)
        for out in plain:
            add_rela(f".rela{out.name}", index[out.name], elf.SHF_INFO_LINK, out.plain)
        first_global = next((s.index for s in symbols if s.bind != elf.STB_LOCAL), len(symbols))
        table = {"info": first_global, "align": 8, "entsize": 24}
        sections.append(Section(symtab, ".symtab", elf.SHT_SYMTAB, 0, 24 * len(symbols), b"", link=strtab, **table))
        sections.append(Section(strtab, ".strtab", elf.SHT_STRTAB, 0, 0, b""))
        sections.append(Section(shstrtab, ".shstrtab", elf.SHT_STRTAB, 0, 0, b""))
        # Last: a later `ld -r` would merge or drop them (Documentation/livepatch/module-elf-format.rst).
        add_klp([row for row in late if row not in first])
        return ObjectFile(self.name, self.arch.machine, elf.ET_REL, tuple(sections), symbols, relocations)

    def _symbols(
        self, ordered: Sequence[_Output], index: Mapping[str, SectionIndex]
    ) -> tuple[tuple[Symbol, ...], dict[str, SymbolIndex]]:
        start = SectionOffset(0)
        rows: list[tuple[str, SectionOffset, int, int, int, SectionIndex]] = [
            ("", start, 0, elf.STT_NOTYPE, elf.STB_LOCAL, SectionIndex(elf.SHN_UNDEF))
        ]
        number: dict[str, SymbolIndex] = {"": SymbolIndex(0)}
        for out in ordered:
            number[f"\0{out.name}"] = SymbolIndex(len(rows))
            rows.append(("", start, 0, elf.STT_SECTION, elf.STB_LOCAL, index[out.name]))
        for out in ordered:
            for label in out.labels:
                place = SectionOffset(label.offset)
                rows.append((label.name, place, label.size, label.type, elf.STB_LOCAL, index[out.name]))
        for name, (section, value, size, kind) in self._globals.items():
            number[name] = SymbolIndex(len(rows))
            rows.append((name, value, size, kind, elf.STB_GLOBAL, index[section]))
        for name in sorted(self._used):
            if name not in number:
                number[name] = SymbolIndex(len(rows))
                shndx = SectionIndex(elf.LIVEPATCH if klp.is_symbol(name) else elf.SHN_UNDEF)
                rows.append((name, start, 0, elf.STT_NOTYPE, elf.STB_GLOBAL, shndx))
        symbols = tuple(
            Symbol(SymbolIndex(k), name, value, size, kind, bind, 0, shndx)
            for k, (name, value, size, kind, bind, shndx) in enumerate(rows)
        )
        return symbols, number


def imports(fragments: Sequence[Fragment]) -> dict[str, Binding]:
    """Exported symbols that fragments use, by name."""
    out: dict[str, Binding] = {}
    for fragment in fragments:
        for r in fragment.references:
            if isinstance(r.to, Binding) and r.to.kind == "export":
                out.setdefault(r.to.name, r.to)
    return out

"""Random object files, as models: sections, symbols and relocations that fit together."""

from __future__ import annotations

from hypothesis import strategies as st

from builder.binary import ObjectFile, Relocation, Section, SectionIndex, SectionOffset, Symbol, SymbolIndex, elf

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
S64 = st.integers(-(2**63), 2**63 - 1)
FLAGS = st.sampled_from([0, elf.SHF_ALLOC, elf.SHF_ALLOC | elf.SHF_EXECINSTR, elf.SHF_ALLOC | elf.SHF_WRITE,
                         elf.SHF_ALLOC | elf.SHF_MERGE | elf.SHF_STRINGS, elf.SHF_GROUP, 1 << 31])  # fmt: skip
RESERVED = st.sampled_from([elf.ABS, elf.COMMON, elf.LIVEPATCH])


@st.composite
def _content(draw: st.DrawFn, index: SectionIndex) -> Section:
    kind = draw(st.sampled_from([elf.SHT_PROGBITS, elf.SHT_NOBITS, elf.SHT_NOTE, 0x6FFF4C00]))
    data = b"" if kind == elf.SHT_NOBITS else draw(st.binary(max_size=40))
    size = draw(st.integers(0, 2**22)) if kind == elf.SHT_NOBITS else len(data)
    align = draw(st.sampled_from([0, 1, 2, 4, 8, 16, 64, 4096]))
    return Section(
        index,
        draw(NAMES.filter(lambda n: n != ".shstrtab")),
        kind,
        draw(FLAGS),
        size,
        data,
        link=SectionIndex(draw(U32)),
        info=draw(U32),
        align=align,
        entsize=draw(U64),
        addr=draw(U64),
    )


@st.composite
def _symbol(draw: st.DrawFn, index: SymbolIndex, sections: int) -> Symbol:
    shndx = SectionIndex(draw(st.one_of(st.integers(0, sections - 1), RESERVED)))
    return Symbol(
        index,
        draw(NAMES),
        SectionOffset(draw(U64)),
        draw(U64),
        draw(st.integers(0, 15)),
        draw(st.integers(0, 15)),
        draw(st.integers(0, 255)),
        shndx,
    )


@st.composite
def objects(draw: st.DrawFn) -> ObjectFile:
    """A model as the reader would give it: what the writer makes by itself is left empty."""
    plain = [draw(_content(SectionIndex(k))) for k in range(1, draw(st.integers(0, 5)) + 1)]
    filled = [s for s in plain if s.size]
    targets = draw(st.lists(st.sampled_from(filled), max_size=3)) if filled else []
    count = 1 + len(plain) + len(targets) + 3
    symtab, strtab, shstrtab = (SectionIndex(count - 3 + k) for k in range(3))
    null = Symbol(SymbolIndex(0), "", SectionOffset(0), 0, 0, 0, 0, SectionIndex(elf.SHN_UNDEF))
    symbols = (null, *(draw(_symbol(SymbolIndex(k), count)) for k in range(1, draw(st.integers(1, 6)))))
    sections = [Section(SectionIndex(0), "", elf.SHT_NULL, 0, 0, b"", align=0), *plain]
    relocations: dict[SectionIndex, tuple[Relocation, ...]] = {}
    for target in targets:
        rows = st.builds(Relocation, st.integers(0, target.size - 1), U32, st.integers(0, len(symbols) - 1), S64)
        index = SectionIndex(len(sections))
        relocations[index] = tuple(draw(st.lists(rows, max_size=4)))
        flags = draw(st.sampled_from([0, elf.SHF_INFO_LINK, elf.SHF_ALLOC | elf.SHF_RELA_LIVEPATCH]))
        sections.append(
            Section(
                index,
                draw(NAMES.filter(lambda n: n != ".shstrtab")),
                elf.SHT_RELA,
                flags,
                0,
                b"",
                link=symtab,
                info=target.index,
                align=8,
                entsize=24,
            )
        )
    local = sum(1 for s in symbols if s.bind == elf.STB_LOCAL)
    sections.append(Section(symtab, ".symtab", elf.SHT_SYMTAB, 0, 0, b"", link=strtab, info=local, align=8, entsize=24))
    sections.append(Section(strtab, ".strtab", elf.SHT_STRTAB, 0, 0, b""))
    sections.append(Section(shstrtab, ".shstrtab", elf.SHT_STRTAB, 0, 0, b""))
    return ObjectFile(
        "model",
        draw(st.integers(0, 65535)),
        elf.ET_REL,
        tuple(sections),
        symbols,
        relocations,
        flags=draw(U32),
        entry=draw(U64),
        osabi=draw(st.integers(0, 255)),
        little=draw(st.booleans()),
    )


MADE = (elf.SHT_RELA, elf.SHT_SYMTAB, elf.SHT_STRTAB, elf.SHT_SYMTAB_SHNDX)


def content(obj: ObjectFile) -> tuple[object, ...]:
    """Everything that a model says, the bytes of tables left out that follow from the rest."""
    sections = [
        (
            s.index,
            s.name,
            s.type,
            s.flags,
            s.link,
            s.info,
            s.align,
            s.entsize,
            s.addr,
            None if s.type in MADE else (s.size, s.data),
        )
        for s in obj.sections
    ]
    rows = {index: list(obj.relocations[index]) for index in sorted(obj.relocations)}
    return (obj.machine, obj.type, obj.flags, obj.entry, obj.osabi, obj.little, sections, list(obj.symbols), rows)

"""What is written and read again says the same, for random models and for every object at hand."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection
from hypothesis import HealthCheck, given, settings

from builder.binary import (
    ObjectFile,
    Relocation,
    Section,
    SectionIndex,
    SectionOffset,
    Symbol,
    SymbolIndex,
    elf,
    read_object,
    write_object,
)
from builder.errors import InputError
from tests.binary.models import content, objects
from tests.conftest import data_root, need


@given(objects())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_model_comes_back(model: ObjectFile) -> None:
    written = write_object(model)
    found = read_object(written, name="model")
    assert content(found) == content(model)
    assert write_object(found) == written == write_object(model)


def shared() -> list[Path]:
    return sorted(path for path in data_root().rglob("*.o") if path.is_file())


def system() -> list[Path]:
    return sorted(p for p in Path("/usr/lib/gcc").glob("**/crt*.o")) + sorted(Path("/usr/lib").glob("*/crt*.o"))


def label(path: Path) -> str:
    return "/".join(path.parts[-2:])


def same(path: Path) -> None:
    found = read_object(path)
    again = read_object(write_object(found), name=found.name)
    assert content(again) == content(found)
    judged(write_object(found), found)


def judged(written: bytes, model: ObjectFile) -> None:
    """pyelftools sees the same sections, symbols and relocations."""
    file = ELFFile(io.BytesIO(written))
    assert file.num_sections() == len(model.sections)
    for mine, theirs in list(zip(model.sections, file.iter_sections(), strict=True))[1:]:
        assert (mine.name, mine.flags, mine.link, mine.info) == (
            theirs.name,
            theirs["sh_flags"],
            theirs["sh_link"],
            theirs["sh_info"],
        )
        if mine.type == elf.SHT_PROGBITS and not mine.flags & elf.SHF_COMPRESSED:
            assert theirs.data() == mine.data
        if mine.type == elf.SHT_SYMTAB:
            assert isinstance(theirs, SymbolTableSection)
            for symbol, other in zip(model.symbols, theirs.iter_symbols(), strict=True):
                assert (symbol.value, symbol.size) == (other["st_value"], other["st_size"])
                assert symbol.is_section or symbol.name == other.name
        if mine.type == elf.SHT_RELA:
            assert isinstance(theirs, RelocationSection)
            rows = [
                (r["r_offset"], r["r_info_type"], r["r_info_sym"], r["r_addend"]) for r in theirs.iter_relocations()
            ]
            assert rows == list(model.relocations[mine.index])


@pytest.mark.data
@pytest.mark.parametrize("path", shared(), ids=label)
def test_shared_objects(path: Path) -> None:
    same(path)


@pytest.mark.parametrize("path", system(), ids=label)
def test_objects_of_the_system(path: Path) -> None:
    if path.read_bytes()[4] != 2:
        with pytest.raises(InputError, match="32-bit"):
            read_object(path)
        return
    same(path)


@pytest.mark.data
def test_readelf_reads_what_is_written(tmp_path: Path) -> None:
    """Word by word what it says of the original, offsets in the file and table sizes apart."""
    need("readelf")
    for path in shared()[::7]:
        again = tmp_path / "again.o"
        again.write_bytes(write_object(read_object(path)))
        for what in ("--sections", "--symbols", "--relocs"):
            assert said(what, again) == said(what, path), (what, path)


def said(what: str, path: Path) -> list[str]:
    command = ["readelf", "--wide", what, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    rows = []
    for line in done.stdout.splitlines():
        line = re.sub(r"offset 0x[0-9a-f]+", "offset", line)
        section = re.match(r"\s*\[\s*\d+\] (\S*)\s+(\S+)\s+[0-9a-f]{16} ([0-9a-f]+) ([0-9a-f]+) (.*)", line)
        if section:
            name, kind, _, size, rest = section.groups()
            line = f"{name} {kind} {'' if kind in ('STRTAB', 'NULL') else size} {rest}"
        rows.append(line)
    return rows


MANY = elf.SHN_LORESERVE + 40


def many_sections() -> ObjectFile:
    """More sections than 16 bits can number: e_shnum, e_shstrndx and st_shndx all need their extensions."""
    first, last, start = SectionIndex(0), SymbolIndex(MANY), SectionOffset(0)
    sections = [Section(first, "", elf.SHT_NULL, 0, 0, b"", align=0)]
    symbols = [Symbol(SymbolIndex(0), "", start, 0, 0, 0, 0, first)]
    for k in range(1, MANY):
        index = SectionIndex(k)
        sections.append(Section(index, f".text.f{k}", elf.SHT_PROGBITS, 6, 4, k.to_bytes(4, "little")))
        symbols.append(Symbol(SymbolIndex(k), f"f{k}", start, 4, elf.STT_FUNC, elf.STB_LOCAL, 0, index))
    symbols.append(Symbol(last, "kernels", start, 0, 0, elf.STB_GLOBAL, 0, SectionIndex(elf.LIVEPATCH)))
    rela, symtab, strtab, wide, names = (SectionIndex(MANY + k) for k in range(5))
    sections += [
        Section(rela, ".rela.text.f1", elf.SHT_RELA, 0, 0, b"", link=symtab, info=1, align=8, entsize=24),
        Section(symtab, ".symtab", elf.SHT_SYMTAB, 0, 0, b"", link=strtab, info=MANY, align=8, entsize=24),
        Section(strtab, ".strtab", elf.SHT_STRTAB, 0, 0, b""),
        Section(wide, ".symtab_shndx", elf.SHT_SYMTAB_SHNDX, 0, 0, b"", link=symtab, align=4, entsize=4),
        Section(names, ".shstrtab", elf.SHT_STRTAB, 0, 0, b""),
    ]
    return ObjectFile(
        "many", 62, elf.ET_REL, tuple(sections), tuple(symbols), {rela: (Relocation(start, 2, last, -4),)}
    )


def test_more_sections_than_sixteen_bits_count(tmp_path: Path) -> None:
    model = many_sections()
    written = write_object(model)
    found = read_object(written, name="many")
    assert content(found) == content(model)
    # section 0xff20 is a section, SHN_LIVEPATCH is none
    assert found.symbols[elf.SHN_LIVEPATCH].shndx == elf.SHN_LIVEPATCH and found.symbols[elf.SHN_LIVEPATCH].is_defined
    assert found.symbols[MANY].shndx == elf.LIVEPATCH and not found.symbols[MANY].is_defined
    judged(written, model)
    if shutil.which("readelf"):
        path = tmp_path / "many.o"
        path.write_bytes(written)
        done = subprocess.run(["readelf", "-h", "-s", "--wide", path], capture_output=True, text=True, check=True)
        assert done.stderr == "" and f"({MANY + 5})" in done.stdout
        assert re.search(rf"FUNC\s+LOCAL\s+DEFAULT\s+{MANY - 1} f{MANY - 1}\n", done.stdout)


def test_an_assembler_wrote_it(tmp_path: Path) -> None:
    """As GNU as numbers them, which is not how this writer would."""
    need("as")
    path = tmp_path / "wide.o"
    source = "".join(f'.section .text.f{k},"ax"\nf{k}: .long {k}\n' for k in range(MANY))
    subprocess.run(["as", "-o", path, "-"], input=source, text=True, check=True)
    found = read_object(path)
    assert len(found.sections) > elf.SHN_LORESERVE
    assert content(read_object(write_object(found), name=found.name)) == content(found)
    last = next(s for s in found.symbols if s.name == f"f{MANY - 1}")
    assert found.sections[last.shndx].name == f".text.f{MANY - 1}"


def test_wide_indices_need_their_table() -> None:
    model = many_sections()
    narrow = ObjectFile(
        "narrow",
        62,
        elf.ET_REL,
        tuple(
            Section(s.index, s.name, elf.SHT_PROGBITS, 0, 0, b"") if s.type == elf.SHT_SYMTAB_SHNDX else s
            for s in model.sections
        ),
        model.symbols,
        model.relocations,
    )
    with pytest.raises(InputError, match="SHT_SYMTAB_SHNDX"):
        write_object(narrow)

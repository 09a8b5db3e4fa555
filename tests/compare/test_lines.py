"""Source lines of instructions, checked against an independent reader of DWARF."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from builder.binary import SectionIndex, read_object
from builder.compare.dwarf import LineTable
from tests.support.compiling import FLAGS, Build

SOURCE = """
extern int sink(int, ...);
static inline int twice(int x) { return sink(x) +
    sink(x, 2); }
int f(int x)
{
    if (x)
        sink(3);

    return twice(x);
}

# 900 "other.h"
int g(int x)
{
    return sink(x, x,
                twice(x));
}
"""


def _independent(data: bytes, section: int) -> list[tuple[int, str, int]]:
    """Rows of the one sequence in a linked image of one section: (offset, file, line)."""
    out = []
    info = ELFFile(BytesIO(data)).get_dwarf_info()
    for unit in info.iter_CUs():
        program = info.line_program_for_CU(unit)
        assert program is not None
        base = 0 if program.header["version"] >= 5 else 1
        files = {k + base: f.name.decode() for k, f in enumerate(program.header["file_entry"])}
        for entry in program.get_entries():
            if entry.state is not None and not entry.state.end_sequence:
                out.append((entry.state.address - section, files[entry.state.file], entry.state.line))
    return out


@pytest.mark.parametrize("version", [4, 5])
def test_lines_are_those_of_an_independent_reader(gcc: str, tmp_path: Path, version: int) -> None:
    """The object linked at a known address for pyelftools, which cannot tell unlinked sections apart."""
    (tmp_path / "unit.c").write_text(SOURCE)
    subprocess.run([gcc, *FLAGS, f"-gdwarf-{version}", "unit.c", "-o", "unit.o"], cwd=tmp_path, check=True)
    script = "SECTIONS { .text.f 0x10000 : { *(.text.f) } .text.g 0x20000 : { *(.text.g) } }"
    (tmp_path / "two.ld").write_text(script)
    subprocess.run(["ld", "-T", "two.ld", "--defsym=sink=0", "unit.o", "-o", "linked"], cwd=tmp_path, check=True)
    obj = read_object(tmp_path / "unit.o")
    table = LineTable.of(obj)
    assert table is not None
    seen = 0
    for name, base in ((".text.f", 0x10000), (".text.g", 0x20000)):
        section = obj.by_name[name]
        theirs = {
            offset: (file, line)
            for offset, file, line in _independent((tmp_path / "linked").read_bytes(), base)
            if 0 <= offset < section.size
        }
        assert len(theirs) > 3
        expected = None
        for offset in range(section.size):
            expected = theirs.get(offset, expected)
            assert table.find(section.index, offset) == expected
            seen += 1
        assert table.find(section.index, section.size) is None
    assert seen > 50
    assert table.find(SectionIndex(10_000), 0) is None


def test_without_lines_there_is_no_table(build: Build) -> None:
    assert LineTable.of(build(SOURCE)) is None

"""What must not be taken for one another is told by its kind, and mypy sees it: one run over both lists of uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEAD = """
from __future__ import annotations

from builder.binary import Address, ObjectFile, Relocation, Section, Symbol
from builder.compare.atoms import Atom
from builder.compare.view import View
from builder.image.memory import Memory, Region


def _(
    obj: ObjectFile, section: Section, symbol: Symbol, row: Relocation, view: View, atom: Atom,
    memory: Memory, a: Region,
) -> None:
"""

GOOD = (
    "obj.relocations_of(symbol.shndx)",
    "obj.symbols[row.symbol].name",
    "view.atom_at(symbol.shndx, symbol.value + row.addend)",
    "view.atom_at(symbol.shndx, max(row.offset - 4, atom.start))",
    "view.masked(section, *section.extent)",
    "size: int = atom.end - atom.start",
    "memory.read(a.base + 8, 4)",
    "memory.read(8 + a.base, 4)",
    "memory.read(min(a.base, a.end - 8), 8)",
    "memory.read(a.base + row.offset, a.end - a.base)",
    "memory.read(memory.pointer(a.base), 8)",
    "memory.read(Address(memory.u64(a.base) & ~7), 8)",
)
WRONG = (
    ("obj.relocations_of(symbol.index)", "SymbolIndex", "SectionIndex"),
    ("obj.symbols_in[row.symbol]", "SymbolIndex", "SectionIndex"),
    ("row._replace(symbol=symbol.shndx)", "SectionIndex", "SymbolIndex"),
    ("view.atom_at(symbol.index, symbol.value)", "SymbolIndex", "SectionIndex"),
    ("view.atom_at(section.index, a.base)", "Address", "SectionOffset"),
    ("view.atom_at(section.index, atom.end - atom.start)", "int", "SectionOffset"),
    ("view.piece(section, row.addend)", "int", "SectionOffset"),
    ("section.string_at(a.base + row.offset)", "Address", "SectionOffset"),
    ("memory.read(row.offset, 4)", "SectionOffset", "Address"),
    ("memory.read(symbol.value, 4)", "SectionOffset", "Address"),
    ("memory.read(row.offset + a.base, 4)", "SectionOffset", "Address"),
    ("memory.read(symbol.shndx, 4)", "SectionIndex", "Address"),
    ("memory.read(a.end - a.base, 4)", "int", "Address"),
    ("memory.read(a.base + a.end, 4)", "int", "Address"),
    ("memory.read(memory.u64(a.base), 8)", "int", "Address"),
)
"""Statement, the kind that is given, the kind that is asked for."""

ERROR = re.compile(r'^.*?:(\d+): error: .*? type "(\w+)".*; expected (?:type )?"(\w+)"', re.MULTILINE)
"""Line, the kind that is given, the kind that is asked for."""


def test_mypy_tells_the_kinds_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    monkeypatch.chdir(ROOT)
    uses = [*GOOD, *(statement for statement, *_ in WRONG)]
    text = HEAD + "".join(f"    {use}\n" for use in uses)
    source = tmp_path / "uses.py"
    source.write_text(text)
    output, problem, _ = api.run(["--hide-error-context", "--no-error-summary", "--no-pretty", str(source)])
    lines = text.splitlines()
    found = [(lines[int(line) - 1].strip(), given, asked) for line, given, asked in ERROR.findall(output)]
    assert (found, problem) == ([*WRONG], ""), output
    assert output.count(": error: ") == len(WRONG), output

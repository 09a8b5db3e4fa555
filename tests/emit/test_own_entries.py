"""Code that refers to its own entry of a table: a WARN() with a text, as kernels have it from 6.19 on.

Of builder/compare/own_entries.py, and what meaning.py, selection.py, refusals.py and fragments.py make of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary import ObjectFile, Relocation, elf, read_object, write_object
from builder.compose.owner import Objects
from builder.pipeline import ModulePlan, build, diff
from tests.support.compiling import TRACED, builder
from tests.support.kernels import opened

WARN = r"""
struct bug_entry { int bug_addr; int format; int file; unsigned short line; unsigned short flags; };
extern int _printk(const char *, ...);
#define WARN(format, arg) ({ struct bug_entry *bug; \
 asm inline volatile("lea (2f)(%%rip), %[addr]\n1:\n.pushsection __bug_table,\"aw\"\n2:\n.long 1b - .\n" \
  ".long %c[fmt] - .\n.long %c[file] - .\n.word %c[line]\n.word %c[fl]\n.org 2b + %c[size]\n.popsection\n" \
  : [addr] "=r" (bug) : [fmt] "i" (format), [file] "i" ("w.c"), [line] "i" (7), [fl] "i" (1), [size] "i" (16)); \
  _printk((void *)bug, arg); asm(""); })
static const char own_name[] __attribute__((used, section(".modinfo"))) = "name=warns";
"""
OLD = (
    WARN
    + r"""
int first(int a) { if (a > 70) WARN("much %d\n", a); return a + 1; }
int second(int a) { if (a > 3) WARN("more %d\n", a); return a + 5; }
"""
)
NEW = (
    WARN
    + r"""
int first(int a) { if (a > 7) WARN("some %d\n", a); if (a > 70) WARN("much %d\n", a); return a + 2; }
int second(int a) { if (a > 3) WARN("more %d\n", a); return a + 5; }
"""
)


def objects(gcc: str, folder: Path, *sources: str) -> list[Path]:
    made = builder(gcc, folder, TRACED)
    for source in sources:
        made(source)
    return [folder / str(number + 1) / "unit.o" for number in range(len(sources))]


def test_an_entry_that_moved_changes_nothing(gcc: str, tmp_path: Path) -> None:
    """Its function is the same, though the table has grown in front of it."""
    old, new = objects(gcc, tmp_path, OLD, NEW)
    found = diff(old, new)
    assert [atom.name for atom in found.selection.functions] == ["first"] and found.judged.refusals == ()
    assert found.selection.pieces != () and all(p.section.name != "__bug_table" for p in found.selection.pieces)


def test_another_entry_is_a_change(gcc: str, tmp_path: Path) -> None:
    """The code of one function that is led to the entry of another."""
    (old,) = objects(gcc, tmp_path, OLD)
    obj = read_object(old)
    index, k = next(
        (index, k)
        for index, rows in obj.relocations.items()
        for k, row in enumerate(rows)
        if obj.sections[obj.sections[index].info].name == ".text.second" and _leads_into(obj, row, "__bug_table")
    )
    rows = list(obj.relocations[index])
    rows[k] = rows[k]._replace(addend=rows[k].addend - 16)
    changed = tmp_path / "changed.o"
    changed.write_bytes(write_object(replace(obj, relocations={**obj.relocations, index: tuple(rows)})))
    found = diff(old, changed)
    assert [r.code for r in found.judged.refusals] == ["unnamed-data"]
    assert [atom.name for atom in found.selection.functions] == ["second"]


def _leads_into(obj: ObjectFile, relocation: Relocation, section: str) -> bool:
    row = obj.symbols[relocation.symbol]
    return row.is_defined and obj.sections[row.shndx].name == section


@pytest.mark.kernel
def test_the_entry_travels_and_is_referred_to(gcc: str, tmp_path: Path, release_7: str) -> None:
    """Each of the two places leads to the entry whose first field leads back behind it."""
    old, new = objects(gcc, tmp_path, OLD, NEW)
    made = build([diff(old, new)], Objects(opened(release_7), {"warns": old}), ModulePlan("warned"))
    assert made is not None
    obj = read_object(made.content)
    table, text = obj.by_name["__bug_table"], obj.by_name[".text"]
    assert table.size == 2 * 16
    sites = {}
    for relocations in (rows for i, rows in obj.relocations.items() if obj.sections[i].info == table.index):
        for row in relocations:
            if row.offset % 16 == 0:
                sites[row.offset] = obj.symbols[row.symbol].value + row.addend
    uses = {}
    for relocations in (rows for i, rows in obj.relocations.items() if obj.sections[i].info == text.index):
        for row in relocations:
            if _leads_into(obj, row, "__bug_table"):
                uses[row.addend + 4] = row.offset + 4
    assert uses == sites and len(uses) == 2
    assert table.flags & elf.SHF_WRITE

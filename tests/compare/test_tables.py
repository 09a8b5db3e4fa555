"""Special tables: entry sizes are found from the object, never assumed."""

from __future__ import annotations

import pytest

from builder.binary import tables
from builder.compare import View
from builder.errors import UnknownError
from tests.support.compiling import Build

TEXT = """
    .section .text.f,"ax",@progbits
    .globl f
    .type f,@function
f:  nop
1:  nop
2:  nop
3:  ret
    .size f, .-f
    .section .text.g,"ax",@progbits
    .globl g
    .type g,@function
g:  nop
4:  ret
    .size g, .-g
    .section .altinstr_replacement,"ax",@progbits
5:  nop
6:  nop
    .section .rodata.str1.1,"aMS",@progbits,1
7:  .string "a.c"
    .data
8:  .quad 0
"""
TABLES = {
    "__bug_table": ('"aw"', ".long {0}-.\n .long 7b-.\n .word 5\n .word 1\n", 12),
    "__ex_table": ('"a"', ".long {0}-.\n .long {0}-.\n .long 3\n", 12),
    "__jump_table": ('"aw"', ".long {0}-.\n .long {0}-.\n .quad 8b-.\n", 16),
    ".static_call_sites": ('"aw"', ".long {0}-.\n .long 8b-.\n", 8),
    ".altinstructions": ('"a"', ".long {0}-.\n .long 5b-.\n .word 9\n .byte 1\n .byte 1\n", 12),
    ".parainstructions": ('"a"', ".quad {0}\n .byte 4\n .byte 5\n .balign 8\n", 16),
    ".smp_locks": ('"a"', ".long {0}-.\n", 4),
    ".return_sites": ('"a"', ".long {0}-.\n", 4),
    "__mcount_loc": ('"a"', ".quad {0}\n", 8),
    ".orc_unwind_ip": ('"a"', ".long {0}-.\n", 4),
}
NEWER = {".altinstructions": ('"a"', ".long {0}-.\n .long 5b-.\n .long 9\n .byte 1\n .byte 1\n", 14)}


def _text(table: str, row: tuple[str, str, int], labels: str) -> str:
    return TEXT + f"    .section {table},{row[0]}\n" + "".join(row[1].format(f"{n}b") for n in labels)


@pytest.mark.parametrize(("table", "row"), [*TABLES.items(), *NEWER.items()])
@pytest.mark.parametrize("labels", ["1", "12", "1243", "441"])
def test_entries_and_their_owners(build: Build, table: str, row: tuple[str, str, int], labels: str) -> None:
    obj = build(_text(table, row, labels), language="assembler")
    found = tables.entries(obj, obj.by_name[table], tables.BY_NAME[table])
    assert [e.end - e.start for e in found] == [row[2]] * len(labels)
    view = View(obj)
    owners = {name: sum(e.table.name == table for e in view.entries.get(view.by_name[name], ())) for name in "fg"}
    assert owners == {"f": sum(n != "4" for n in labels), "g": labels.count("4")}


def test_alternatives_without_a_replacement_keep_their_size(build: Build) -> None:
    """An empty replacement has no relocation in some assemblers' output."""
    full = ".long {0}-.\n .long 5b-.\n .word 9\n .byte 1\n .byte 1\n"
    empty = full.replace("5b-.", "0")
    text = TEXT + '    .section .altinstructions,"a"\n'
    text += full.format("1b") + empty.format("2b") + full.format("4b")
    obj = build(text, language="assembler")
    found = tables.entries(obj, obj.by_name[".altinstructions"], tables.BY_NAME[".altinstructions"])
    assert [len(e.relocations) for e in found] == [2, 1, 2]
    assert [e.end - e.start for e in found] == [12, 12, 12]


def test_the_section_s_own_entry_size_decides(build: Build) -> None:
    text = TEXT + '    .section __jump_table,"aM",@progbits,16\n .long 1b-.\n .long 2b-.\n .quad 8b-.\n'
    obj = build(text, language="assembler")
    assert obj.by_name["__jump_table"].entsize == 16
    assert len(tables.entries(obj, obj.by_name["__jump_table"], tables.BY_NAME["__jump_table"])) == 1


@pytest.mark.parametrize(
    "body", [".quad 0\n .quad 0\n", ".long 1b-.\n .long 0\n .quad 0\n .long 2b-.\n .long 0\n .quad 0\n"]
)
def test_a_table_that_cannot_be_told_apart_is_named(build: Build, body: str) -> None:
    obj = build(TEXT + '    .section __jump_table,"aw"\n ' + body, language="assembler")
    with pytest.raises(UnknownError, match="__jump_table"):
        tables.entries(obj, obj.by_name["__jump_table"], tables.BY_NAME["__jump_table"])

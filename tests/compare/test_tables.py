"""Special tables: entry sizes are found from the object, never assumed."""

from __future__ import annotations

import pytest

from builder.binary import tables
from builder.compare import View, compare
from builder.errors import UnknownError
from tests.compare.conftest import names
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
    ".retpoline_sites": ('"a"', ".long {0}-.\n", 4),
    ".call_sites": ('"a"', ".long {0}-.\n", 4),
    ".ibt_endbr_seal": ('"a"', ".long {0}-.\n", 4),
    ".cfi_sites": ('"a"', ".long {0}-.\n", 4),
    ".kcfi_traps": ('"a"', ".long {0}-.\n", 4),
    "__mcount_loc": ('"a"', ".quad {0}\n", 8),
    "__patchable_function_entries": ('"aw"', ".quad {0}\n", 8),
    ".orc_unwind_ip": ('"a"', ".long {0}-.\n", 4),
}
FORMS = {
    ".altinstructions, v4.1": (".altinstructions", ('"a"', ".long {0}-.\n .long 5b-.\n .word 9\n .byte 1,1,0\n", 13)),
    ".altinstructions of another object's code, v5.13": (
        ".altinstructions", ('"a"', ".long {0}-.\n .long elsewhere\n .word 9\n .byte 1,1\n", 12)),
    "__ex_table, v4.6": ("__ex_table", ('"a"', ".long {0}-.\n .long {0}-.\n .long handler-.\n", 12)),
    "__bug_table with a format": (
        "__bug_table", ('"aw"', ".long {0}-.\n .long 7b-.\n .long 7b-.\n .word 5\n .word 1\n", 16)),
}  # fmt: skip
NEWER = {".altinstructions": ('"a"', ".long {0}-.\n .long 5b-.\n .long 9\n .byte 1\n .byte 1\n", 14)}


def _text(table: str, row: tuple[str, str, int], labels: str) -> str:
    return TEXT + f"    .section {table},{row[0]}\n" + "".join(row[1].format(f"{n}b") for n in labels)


def test_each_table_is_tried_below() -> None:
    assert TABLES.keys() == tables.BY_NAME.keys()


@pytest.mark.parametrize(("table", "row"), [*TABLES.items(), *NEWER.items(), *FORMS.values()])
@pytest.mark.parametrize("labels", ["1", "12", "1243", "441"])
def test_entries_and_their_owners(build: Build, table: str, row: tuple[str, str, int], labels: str) -> None:
    obj = build(_text(table, row, labels), language="assembler")
    found = tables.entries(obj, obj.by_name[table], tables.BY_NAME[table])
    assert [e.end - e.start for e in found] == [row[2]] * len(labels)
    view = View(obj)
    owners = {name: sum(e.table.name == table for e in view.entries(view.by_name[name])) for name in "fg"}
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


def test_entries_of_which_some_lead_to_another_object_are_told_apart(build: Build) -> None:
    """Retpolines of v5.13: the replacement is a symbol of the kernel (asm/nospec-branch.h), here in some entries."""
    form = ".long {}-.\n .long {}\n .word 9\n .byte 1,1\n"
    rows = [("1b", "5b-."), ("2b", "elsewhere-."), ("4b", "elsewhere-.")]
    text = TEXT + '    .section .altinstructions,"a"\n' + "".join(form.format(*row) for row in rows)
    obj = build(text, language="assembler")
    found = tables.entries(obj, obj.by_name[".altinstructions"], tables.BY_NAME[".altinstructions"])
    assert [(e.end - e.start, len(e.relocations)) for e in found] == [(12, 2)] * 3


@pytest.mark.parametrize(
    ("table", "entries", "problem"),
    [
        # two sizes mixed
        ("__bug_table", (".long 1b-., 7b-.\n .word 5,1\n", ".long 2b-., 7b-.\n .word 5,1\n .long 0\n") * 2, "told"),
        (".smp_locks", (".long 1b-.\n .byte 0\n", ".long 2b-.\n", ".long 4b-.\n"), "told"),
        # the last one cut off
        ("__bug_table", (".long 1b-., 7b-.\n .word 5,1\n", ".long 2b-., 7b-.\n .word 5\n"), "at 0xc ends behind"),
        # two of twelve bytes, or three of eight
        ("__ex_table", (".long 1b-., 2b-., 3b-.\n",) * 2, "told"),
        # one entry with more than any has
        ("__jump_table", (".long 1b-., 2b-.\n .quad 8b-., 8b-.\n",), "told"),
        (".altinstructions", (".long 1b-., 5b-.\n .word 9\n .byte 1,1,0,0,0\n",) * 2, "15 bytes, not 12 or 13 or 14"),
        (".altinstructions", (".long 1b-., 5b-.\n .byte 9,1\n",), "10 bytes, not 12 or 13 or 14"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_known_is_named(build: Build, table: str, entries: tuple[str, ...], problem: str) -> None:
    obj = build(TEXT + f'    .section {table},"aw"\n ' + "".join(entries), language="assembler")
    with pytest.raises(UnknownError, match=rf"section {table}.*{problem}"):
        tables.entries(obj, obj.by_name[table], tables.BY_NAME[table])


@pytest.mark.parametrize("form", [".word 9\n .byte 1,{}", ".word 9\n .byte 1,{},0", ".long 9\n .byte 1,{}"])
def test_a_replacement_counts_where_it_has_a_length(build: Build, form: str) -> None:
    """v4.1 to v5.12 have the length of the padding behind it, which is mostly zero."""
    entry = '    .section .altinstructions,"a"\n .long 1b-.\n .long 5b-.\n ' + form + "\n"
    text = TEXT.replace("5:  nop", "5:  {}") + entry

    def changed(length: int, *replacements: str) -> list[str]:
        old, new = (build(text.format(r, length), language="assembler") for r in replacements)
        return names(compare(old, new).changed)

    assert changed(1, "cld", "std") == ["f"]
    assert changed(0, "cld", "std") == []


def test_what_only_fills_up_the_last_entry_may_be_left_out(build: Build) -> None:
    """asm/paravirt.h aligns before each struct paravirt_patch_site, and not behind the last."""
    site = ".balign 8\n .quad {}b\n .byte 4,5\n"
    text = TEXT + '    .section .parainstructions,"a"\n ' + "".join(map(site.format, (1, 2, 4)))
    obj = build(text, language="assembler")
    section = obj.by_name[".parainstructions"]
    found = tables.entries(obj, section, tables.BY_NAME[".parainstructions"])
    assert [(e.start, e.end) for e in found] == [(0, 16), (16, 32), (32, section.size)] and section.size < 48

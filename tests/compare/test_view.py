"""Relocated fields: how wide they are and what they are relative to is known in one place, or named as unknown."""

from __future__ import annotations

import pytest

from builder.binary import ObjectFile
from builder.compare import View, compare
from builder.errors import UnknownError
from tests.compare.conftest import names
from tests.support.compiling import Build

CODE = """
    .section .text.{name},"ax",@progbits
    .globl {name}
    .type {name},@function
{name}:
    {body}
    ret
    .size {name}, .-{name}
"""
TABLE = """
    .section .data.table,"aw",@progbits
    .type table,@object
    .size table, 8
table:
    .reloc ., R_X86_64_{}, there
    .short 0
    .short {}
    .long {}
"""


def assembled(build: Build, text: str) -> ObjectFile:
    return build(text, language="assembler")


@pytest.mark.parametrize(
    "body", ["movq there@gottpoff(%rip), %rax\n movl ${}, %ecx", "movl ${}, %ecx\n addq there@gotpcrel(%rip), %rax"]
)
def test_an_unknown_relocation_of_changed_code_is_named(build: Build, body: str) -> None:
    old, new = (assembled(build, CODE.format(name="f", body=body.format(k))) for k in (1, 2))
    with pytest.raises(
        UnknownError, match=r"section \.text\.f: relocation type \d+ at 0x[0-9a-f]+ is not one"
    ) as error:
        compare(old, new)
    assert error.value.where == old.name


@pytest.mark.parametrize("kind", ["16", "GOTPCREL"])
def test_an_unknown_relocation_of_data_hides_nothing_beside_it(build: Build, kind: str) -> None:
    old, new = (assembled(build, TABLE.format(kind, *row)) for row in ((1, 1), (2, 2)))
    with pytest.raises(UnknownError, match=r"section \.data\.table: relocation type \d+ at 0x0 is not one"):
        compare(old, new)


def test_a_relocation_that_only_marks_has_no_field(build: Build) -> None:
    old, new = (assembled(build, TABLE.format("NONE", k, 7)) for k in (1, 2))
    (found,) = compare(old, new).data.values()
    assert found.is_changed
    section = old.by_name[".data.table"]
    assert View(old).masked(section, *section.extent) == section.data


@pytest.mark.parametrize("body", ["cmpl $9, 2b(%rip)", "cmpb $9, 2b(%rip)", "movl 2b(%rip), %eax"])
def test_unnamed_data_is_cut_where_the_instruction_means(build: Build, body: str) -> None:
    """A constant behind the displacement is part of what that is relative to."""
    data = '    .section .rodata,"a",@progbits\n1:  .long 1, {}\n2:  .long 3, 4\n'
    code = CODE.format(name="f", body="movl 1b(%rip), %ecx") + CODE.format(name="g", body=body)
    old, new = (assembled(build, data.format(k) + code) for k in (5, 6))
    view = View(old)
    function = view.by_name["g"]
    (target,) = [view.target(r, view.bias(function, r)) for r in view.relocations(function)]
    assert target.section is not None and view.piece(target.section, target.place) == (8, 16)
    assert names(compare(old, new).changed) == ["f"]


def test_code_without_a_symbol_is_decoded_for_what_its_fields_are_relative_to(build: Build) -> None:
    text = CODE.format(name="f", body="1: nop\n 2: nop") + (
        '    .section .altinstr_replacement,"ax",@progbits\n3:  nop\n  cmpl $9, table+4(%rip)\n  jmp f\n'
        '    .section .data.table,"aw",@progbits\n    .type table,@object\n    .size table, 8\ntable: .quad 0\n'
    )
    view = View(assembled(build, text))
    section = view.obj.by_name[".altinstr_replacement"]
    found = [(target.atom and target.atom.name, target.offset) for _, target in view.leads(section, *section.extent)]
    assert found == [("table", 4), ("f", 0)]

"""What holds of the record of every architecture (`KNOWN` in builder/arch/__init__.py)."""

from __future__ import annotations

import random
from dataclasses import fields
from itertools import pairwise

import pytest

from builder.arch import KNOWN, Architecture
from builder.binary.kernel import Features
from builder.templates import environment


@pytest.fixture(params=KNOWN.values(), ids=lambda row: row.name)
def arch(request: pytest.FixtureRequest) -> Architecture:
    found: Architecture = request.param
    return found


def test_its_rows_name_features_that_a_kernel_can_have(arch: Architecture) -> None:
    features = {row.feature for row in arch.sites} | {arch.entry_mark.feature}
    features |= {row[0] for row in (*arch.glue.modinfo, *arch.glue.imports)}
    assert features <= {field.name for field in fields(Features)}


def test_each_nop_is_one_instruction_as_long_as_it_says(arch: Architecture) -> None:
    for length, row in arch.nops.items():
        (insn,) = arch.decode(row, 0)
        assert insn.is_nop and insn.length == length == len(row)
    assert arch.nops[len(arch.padding)] == arch.padding


def test_instructions_cover_the_code_without_gaps(arch: Architecture) -> None:
    for seed in range(200):
        data = random.Random(seed).randbytes(80 + seed % 3)
        rows = arch.decode(data, 0x40)
        assert rows[0].offset == 0x40 and rows[-1].end == 0x40 + len(data)
        assert all(a.end == b.offset for a, b in pairwise(rows))


def test_the_relocations_that_it_speaks_of_have_rows(arch: Architecture) -> None:
    assert arch.branch_types <= arch.call_types <= arch.relocations.keys()
    assert arch.relocations[arch.pc32].pc_relative and arch.relocations[arch.pc32].size == 4


def test_the_registers_that_it_speaks_of_are_its_own(arch: Architecture) -> None:
    assert {arch.stack_register, arch.frame_register, *arch.argument_registers} <= set(arch.registers)
    assert {k for k in arch.fetch_registers.values() if k is not None} <= set(range(len(arch.registers)))


def test_its_part_of_a_module_has_a_template(arch: Architecture) -> None:
    assert arch.glue.template in environment().list_templates()

"""The numbers of DWARF are those that an independent reader has."""

from __future__ import annotations

import pytest
from elftools.dwarf import constants, enums
from elftools.dwarf.dwarf_expr import DW_OP_name2opcode

from builder.compare import dwarf_numbers

TABLES = (
    enums.ENUM_DW_TAG, enums.ENUM_DW_AT, enums.ENUM_DW_FORM, enums.ENUM_DW_UT, enums.ENUM_DW_LNCT, DW_OP_name2opcode,
    vars(constants),
)  # fmt: skip
NUMBERS = {name: value for name, value in vars(dwarf_numbers).items() if name.startswith("DW_")}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_what_its_name_says(name: str) -> None:
    assert {table[name] for table in TABLES if name in table} == {NUMBERS[name]}

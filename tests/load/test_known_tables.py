"""What the loader must know of each table that a module of ours may hold (builder/load/tables.py)."""

from __future__ import annotations

from builder.binary import tables
from builder.load.passes import PASSES
from builder.load.tables import ORDINARY, TABLES

CLANG_ONLY = {".cfi_sites", ".kcfi_traps"}
"""Code is patched by these, and no kernel that can be a target reads them: a module that has one is not loaded."""


def test_each_special_table_has_its_pass_or_needs_none() -> None:
    passes = {table for row in PASSES for table in row.tables}
    carried = {row.name for row in tables.TABLES} | {row.paired for row in tables.TABLES if row.paired}
    assert carried - passes - TABLES == CLANG_ONLY, "a pass, or a row in TABLES of builder/load/tables.py"


def test_what_a_pass_reads_is_no_plain_section() -> None:
    """Else a kernel without that pass would load a module as if it had no such table."""
    plain = {table for row in PASSES for table in row.tables if table in TABLES or ORDINARY.fullmatch(table)}
    assert plain == set()

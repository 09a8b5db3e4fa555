"""One record per architecture: relocation rows, instruction facts, entry conventions.

To add an architecture: write a module beside `x86_64.py` that fills an
`Architecture`, and add it to `KNOWN`. Nothing else in the core names a
machine, but for the files that tests/test_layers.py lists with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import iced_x86

from builder.arch.model import (
    Architecture,
    EntryMark,
    Glue,
    Instruction,
    Operation,
    RelocationRow,
    SiteTable,
    ThunkCode,
)
from builder.arch.x86_64 import X86_64
from builder.errors import InputError

TARGET: Final = X86_64
"""That of the kernels that can be targets (builder/binary/kernel/static.py)."""
KNOWN: Final = {row.machine: row for row in (X86_64,)}
"""The record for each ELF e_machine number that is handled."""
_NAMES = {3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC64", 22: "S/390", 40: "ARM", 62: "x86-64",
          183: "AArch64", 243: "RISC-V", 258: "LoongArch"}  # fmt: skip


def by_machine(machine: int, *, where: str) -> Architecture:
    """The record for an ELF e_machine number; InputError names an unknown one."""
    found = KNOWN.get(machine)
    if found is None:
        known = ", ".join(a.name for a in KNOWN.values())
        name = _NAMES.get(machine, "an unknown machine")
        raise InputError(f"is an object for {name} (e_machine {machine}); handled: {known}", where=where)
    return found


def decoder() -> str:
    """What tells the installed decoder of instructions from another: the sizes and times of its files."""
    files = Path(iced_x86.__file__).parent.glob("*.so")
    return repr(sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


__all__ = [
    "KNOWN",
    "TARGET",
    "Architecture",
    "EntryMark",
    "Glue",
    "Instruction",
    "Operation",
    "RelocationRow",
    "SiteTable",
    "ThunkCode",
    "by_machine",
    "decoder",
]

"""The kinds of numbers that must not be taken for one another.

At run time all are plain `int`; that one stands where another is asked for is found by mypy. A number becomes one of a
kind where it is read or looked up.
"""

from __future__ import annotations

from typing import NewType

SectionIndex = NewType("SectionIndex", int)
"""The number of a section in its file; in `Symbol.shndx` also a reserved one (`elf.RESERVED`)."""

SymbolIndex = NewType("SymbolIndex", int)
"""The number of a symbol in its file's table."""

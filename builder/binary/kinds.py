"""The kinds of numbers that must not be taken for one another.

At run time all are plain `int`; that one stands where another is asked for is found by mypy. A number becomes one of a
kind where it is read or looked up. What is counted from a place keeps its kind: an address and a distance make an
address, and so do the address of a section and an offset in it; two addresses make a distance, which is an `int`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType, Self, overload

SectionIndex = NewType("SectionIndex", int)
"""The number of a section in its file; in `Symbol.shndx` also a reserved one (`elf.RESERVED`)."""

SymbolIndex = NewType("SymbolIndex", int)
"""The number of a symbol in its file's table."""

if TYPE_CHECKING:

    class _Place(int):
        @overload
        def __add__(self, other: Self) -> int: ...  # type: ignore[overload-overlap]  # two of them make none
        @overload
        def __add__(self, other: int) -> Self: ...
        def __add__(self, other: int) -> int: ...
        def __radd__(self, other: int) -> Self: ...
        @overload
        def __sub__(self, other: Self) -> int: ...  # type: ignore[overload-overlap]
        @overload
        def __sub__(self, other: int) -> Self: ...
        def __sub__(self, other: int) -> int: ...

    class Address(_Place):
        """Where something lies in the memory of a kernel, in bytes; 0 is a null pointer."""

    class SectionOffset(_Place):
        """Where something lies in its section, in bytes from the section's start."""

else:
    Address = SectionOffset = int

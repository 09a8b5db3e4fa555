"""Layouts of the kernel's structures, and paths to their members."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from builder.errors import KernelError

_STEP: Final = re.compile(r"(\w+)(?:\[(\d+)\])?")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a struct: `offset` and `size` in bytes.

    A bit-field also has its place, `bit_offset` from the start of the struct,
    and `bit_size`, in bits. `name` is "" for an anonymous struct or union.
    `layout` is that of an embedded struct or union, or of the elements of an
    array of them; `count` is the number of elements of an array, all its
    dimensions together.
    """

    name: str
    offset: int
    size: int
    type_name: str
    bit_offset: int | None = None
    bit_size: int | None = None
    count: int | None = None
    layout: StructLayout | None = None

    def moved(self, by: int) -> Member:
        """The same member seen from `by` bytes earlier."""
        bits = None if self.bit_offset is None else self.bit_offset + 8 * by
        return replace(self, offset=self.offset + by, bit_offset=bits)

    def element(self, number: int) -> Member | None:
        """One element of an array, None where it has no such element."""
        if self.count is None or number >= self.count:
            return None
        size = self.size // self.count
        kind = self.type_name.partition("[")[0].rstrip()
        return replace(self, offset=self.offset + number * size, size=size, type_name=kind, count=None)


@dataclass(frozen=True, slots=True)
class StructLayout:
    """A struct or union: `size` in bytes, members in order; `name` "" for an anonymous one."""

    name: str
    size: int
    members: tuple[Member, ...]

    def member(self, path: str) -> Member:
        """The member `a`, `list.next` or `mem[2].base`, its `offset` from the start of this struct.

        Members of anonymous structs and unions are found by their own name, as in C.
        Raises KernelError naming the struct and the member that it does not have.
        """
        layout: StructLayout | None = self
        base = 0
        found: Member | None = None
        for step in path.split("."):
            parts = _STEP.fullmatch(step)
            if parts is None:
                raise KernelError(f"{path!r} is no path to a member of {self.name}")
            name, number = parts.groups()
            found = layout.own(name) if layout else None
            if found is not None and number is not None:
                found = found.element(int(number))
            if found is None:
                raise KernelError(f"struct {self.name} has no member {path} (there is no {step})")
            found = found.moved(base)
            base, layout = found.offset, found.layout if found.count is None else None
        assert found is not None
        return found

    def own(self, name: str) -> Member | None:
        """The member `name` itself or of an anonymous struct in it, None where there is none."""
        for member in self.members:
            if member.name == name:
                return member
            if not member.name and member.layout is not None:
                inner = member.layout.own(name)
                if inner is not None:
                    return inner.moved(member.offset)
        return None

    def has(self, path: str) -> bool:
        """Whether there is such a member."""
        try:
            self.member(path)
        except KernelError:
            return False
        return True

    def offset_of(self, path: str) -> int:
        """The offset in bytes of `member(path)`; KernelError where there is none, and for a bit-field."""
        found = self.member(path)
        if found.bit_size is not None:
            raise KernelError(f"{self.name}.{path} is a bit-field: it has no offset in bytes")
        return found.offset

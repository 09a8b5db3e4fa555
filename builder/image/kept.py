"""What a kernel keeps of the modules and livepatches that are loaded.

Modules are described by protocols: `builder.load` makes them, and a kernel
only asks of them what stands here. The livepatch structures are the kernel's own
(include/linux/livepatch.h, kernel/livepatch/patch.h, v6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from builder.binary import Address
from builder.image.memory import Region


class KeptSection(Protocol):
    """A section of a module where it lies; addresses in memory, sizes in bytes."""

    @property
    def address(self) -> Address: ...
    @property
    def size(self) -> int: ...
    @property
    def end(self) -> Address: ...


class KeptModule(Protocol):
    """A module in memory."""

    @property
    def name(self) -> str: ...
    @property
    def regions(self) -> Sequence[Region]: ...
    @property
    def percpu(self) -> int | None:
        """The offset of its per-CPU data, None where it has none."""

    @property
    def exports(self) -> Sequence[str]:
        """The names that it exports."""

    @property
    def users(self) -> set[str]:
        """The modules that need it."""

    @property
    def ftrace(self) -> Sequence[Address]:
        """Where its functions can be traced, in order of address."""

    @property
    def breaks_ftrace(self) -> bool:
        """Whether all tracing has ended with it (ftrace_bug)."""

    def section(self, name: str) -> KeptSection | None:
        """The first section of this name."""

    def holds(self, address: Address) -> bool:
        """within_module()"""


@dataclass(frozen=True, slots=True)
class ModuleExport:
    """A symbol that a loaded module exports."""

    name: str
    address: Address
    crc: int | None
    gpl: bool
    namespace: str
    owner: str


@dataclass(slots=True)
class PatchedFunction:
    """A klp_func: addresses, `old` 0 until its object is loaded; a `nop` leads back to the old one."""

    name: str
    sympos: int
    new: Address
    old: Address = Address(0)
    nop: bool = False


@dataclass(slots=True)
class PatchedObject:
    """A klp_object; `name` None for vmlinux."""

    name: str | None
    functions: list[PatchedFunction]
    patched: bool = False


@dataclass(slots=True)
class Livepatch:
    """A klp_patch that klp_enable_patch() was given."""

    module: str
    objects: list[PatchedObject]
    replace: bool
    enabled: bool = False


@dataclass(slots=True)
class Redirection:
    """A klp_ops: the versions of one function, newest last, and the code that leads to the newest."""

    old: Address
    place: Address
    before: bytes
    trampoline: Region
    stack: list[PatchedFunction] = field(default_factory=list)

"""What livepatch looks up while a module is loaded, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from builder.binary import elf, klp
from builder.binary.kernel import Kernel
from builder.binary.module import ModuleFile

_NAME: Final = 0.07e-6
"""Seconds for a name of kallsyms to be decoded and compared: 415 instructions, as the simulated kernel executes it."""


@dataclass(frozen=True, slots=True)
class Lookups:
    """How often a symbol of vmlinux is looked up: for `relocations` of livepatch, and for `functions` to be replaced.

    `walked` are the names that the kernel compares for each: all, where it has no sorted table of them
    (klp_find_object_symbol, kernel/livepatch/core.c, up to 6.1), else 0. One of a loaded module costs next to nothing.
    """

    relocations: int
    functions: int
    walked: int

    @property
    def seconds(self) -> float:
        """An estimate of what it all takes."""
        return (self.relocations + self.functions) * self.walked * _NAME

    def as_json(self) -> dict[str, object]:
        return {
            "relocations": self.relocations,
            "functions": self.functions,
            "walked": self.walked,
            "seconds": round(self.seconds, 2),
        }


def lookups(module: ModuleFile, replaced: Sequence[Mapping[str, object]], kernel: Kernel) -> Lookups:
    """Of a module that was loaded; `replaced` says of each function the `object` that it is of."""
    obj = module.object
    # As the loader reads them: a relocation may lead anywhere.
    relocations = sum(
        klp.object_named(obj.symbols[number].name) == klp.VMLINUX
        for section in obj.sections
        if section.flags & elf.SHF_RELA_LIVEPATCH and klp.is_section(section.name)
        for _, _, number, _ in elf.LITTLE.rela.iter_unpack(section.data[: len(section.data) // 24 * 24])
        if number < len(obj.symbols)
    )
    functions = sum(row["object"] == klp.VMLINUX for row in replaced)
    return Lookups(relocations, functions, 0 if kernel.features.finds_by_name else kernel.number_of_symbols)

"""What the passes leave in a module that goes wrong later, seen when all of them have run.

Pointers to entries whose ENDBR vmlinux has sealed (apply_seal_endbr, arch/x86/kernel/alternative.c, v6.2), and returns
through the thunk that no table names, of which later kernels warn (warn_thunk_thunk, arch/x86/entry/entry.S, v6.9).
"""

from __future__ import annotations

from collections.abc import Iterator

from builder.binary import SectionIndex, elf
from builder.image.simulated import SimulatedKernel
from builder.load.module import LoadedModule
from builder.load.passes.ibt import ENDBR64
from builder.load.relocate import R32S, R64


def sealed_pointers(kernel: SimulatedKernel, loaded: LoadedModule) -> Iterator[str]:
    """Pointers to functions of vmlinux that cannot be called indirectly where IBT is enforced."""
    if not kernel.kernel.features.ibt:
        return
    start, end = kernel.facts.text
    symbols = loaded.file.object.symbols
    for section in loaded.file.object.sections:
        if section.type != elf.SHT_RELA or not loaded.file.object.sections[section.info].is_alloc:
            continue
        for _, kind, number, addend in elf.LITTLE.rela.iter_unpack(section.data):
            value = loaded.values[number] + addend
            if kind not in (R64, R32S) or not start <= value < end or symbols[number].shndx not in (0, elf.LIVEPATCH):
                continue
            if kernel.kernel.symbol_at(value) is not None and kernel.memory.read(value, 4) != ENDBR64:
                yield f"a pointer to {kernel.symbols.describe(value)}, which has no ENDBR any more"


def unpatched_return(kernel: SimulatedKernel, loaded: LoadedModule) -> Iterator[str]:
    """The first return through the thunk that is in no table, and so stays as it is."""
    if not kernel.kernel.features.return_thunk:
        return
    thunk = kernel.kernel.symbol("__x86_return_thunk").address
    at = {section.index: section for section in loaded.sections}
    patched = {site.address for site in loaded.sites if site.step == "apply_returns"}
    for section in loaded.file.object.sections:
        target = at.get(SectionIndex(section.info))
        if section.type != elf.SHT_RELA or target is None or not target.flags & elf.SHF_EXECINSTR:
            continue
        for offset, _, number, _ in elf.LITTLE.rela.iter_unpack(section.data):
            jump = target.address + offset - 1
            if loaded.values[number] == thunk and jump not in patched and target.name != ".altinstr_replacement":
                where = kernel.symbols.describe(jump)
                yield f"the return at {where} is in no .return_sites: unpatched return thunk"
                return

"""What a kernel takes and then suffers from: found in the file, or once it is loaded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from builder.binary import Relocation, Section, elf, klp
from builder.binary.kernel import Kernel
from builder.binary.module import ModuleFile
from builder.errors import InputError
from builder.image.kept import Livepatch
from builder.image.simulated import SimulatedKernel
from builder.load.accept import Finding
from builder.load.module import LoadedModule, Site
from builder.load.passes import PASSES
from builder.load.passes.left import sealed_pointers, unpatched_return
from builder.load.tables import READ_AT_ONCE, TABLES, unknown_tables


def in_file(module: ModuleFile, kernel: Kernel) -> Iterator[Finding]:
    """What can be seen without loading."""
    this, size = module.object.by_name.get(".gnu.linkonce.this_module"), kernel.layout("module").size
    if this is not None and this.is_nobits:
        yield Finding("this-module", ".gnu.linkonce.this_module has no contents")
    elif this is not None and this.size != size:
        yield Finding("this-module", f".gnu.linkonce.this_module has {this.size} bytes, struct module {size}")
    unknown = set(unknown_tables(module))
    read = {table for row in PASSES if row.applies(kernel.features) for table in row.tables}
    skipped = {table for row in PASSES for table in row.tables} - read - TABLES
    for section in module.object.sections:
        if section.is_alloc and section.size and section.type != elf.SHT_RELA:
            if section.name in unknown:
                yield Finding("unknown-table", f"section {section.name} is of no known kind")
            elif section.name in skipped:
                yield Finding("dead-table", f"section {section.name} is a table that this kernel does not read")
        if klp.is_section(section.name):
            yield from _klp_section(module, section)
    yield from _unresolved(module)


def _klp_section(module: ModuleFile, section: Section) -> Iterator[Finding]:
    if not section.flags & elf.SHF_RELA_LIVEPATCH:
        yield Finding("klp-flag", f"section {section.name} has no flag SHF_RELA_LIVEPATCH: never resolved")
    if klp.object_named(section.name) != klp.VMLINUX:
        sections = module.object.sections
        target = sections[section.info] if section.info < len(sections) else None
        if target is None or not target.is_alloc:
            # klp_apply_object_relocs() does not look, as apply_relocations() does (kernel/livepatch/core.c, v6.1).
            yield Finding(
                "klp-target", f"section {section.name} is written to what is not in memory: section {section.info}"
            )
        elif target.name in READ_AT_ONCE:
            yield Finding("klp-late", f"section {section.name} is written after {target.name} has been used")


def _unresolved(module: ModuleFile) -> Iterator[Finding]:
    """Livepatch symbols that an ordinary relocation uses, and that no table of vmlinux before it has given a value."""
    symbols, resolved = module.object.symbols, set[int]()
    for section in module.object.sections:
        if section.type != elf.SHT_RELA:
            continue
        target = module.object.sections[section.info]
        try:
            rows: tuple[Relocation, ...] = module.object.relocations[section.index] if target.is_alloc else ()
        except InputError as error:
            yield Finding("malformed", str(error))
            continue
        if section.flags & elf.SHF_RELA_LIVEPATCH:
            if klp.object_named(section.name) == klp.VMLINUX:
                resolved |= {row.symbol for row in rows}
            continue
        for row in rows:
            if symbols[row.symbol].shndx == elf.LIVEPATCH and row.symbol not in resolved:
                yield Finding("klp-unresolved", f"{symbols[row.symbol].name}, used in {target.name}, is never resolved")
                break


def when_loaded(simulated: SimulatedKernel, loaded: LoadedModule) -> Iterator[Finding]:
    """What its loading showed: warnings of the kernel, sites that overlap, pointers and returns that go wrong."""
    yield from (Finding("warning", text) for text in loaded.warnings)
    yield from overlaps(loaded.sites)
    yield from (Finding("sealed-endbr", text) for text in sealed_pointers(simulated, loaded))
    yield from (Finding("return-sites", text) for text in unpatched_return(simulated, loaded))


def overlaps(sites: Sequence[Site]) -> Iterator[Finding]:
    """Places that two different passes wrote, other than one instruction that both mean."""
    code = sorted((s for s in sites if len(s.new) <= 64), key=lambda s: (s.address, len(s.new)))
    for before, after in itertools.pairwise(code):
        if before.step != after.step and before.address + len(before.new) > after.address != before.address:
            yield Finding("overlap", f"{before.step} and {after.step} both write {after.address:#x}")


def missing_objects(simulated: SimulatedKernel, patch: Livepatch) -> Iterator[Finding]:
    """Objects whose relocations could not be tried, because they are not to be had."""
    for found in patch.objects:
        if found.name is not None and found.name not in simulated.modules:
            yield Finding("object-unknown", f"module {found.name}, which it patches, was not found: give its file")

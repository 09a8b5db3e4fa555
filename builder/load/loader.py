"""load_module and delete_module of a simulated kernel (kernel/module/main.c, v6.1 to v7.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.binary import Address, SectionIndex, elf
from builder.binary.module import ModuleFile
from builder.errors import LoadError, UncheckedError, UnknownError, UnknownSymbolError
from builder.image.kept import ModuleExport
from builder.image.memory import PAGE, Memory, Region
from builder.image.simulated import SimulatedKernel
from builder.load import livepatch
from builder.load.layout import PROTECTION, lay_out, place
from builder.load.module import PERCPU, THIS_MODULE, LoadedModule, ModuleKallsyms, Placed, loaded_module
from builder.load.passes import PASSES, Context, Table
from builder.load.relocate import RelocationTarget, apply_relocations
from builder.load.tables import unknown_tables

_DEEPEST = 100
"""Modules that may wait for each other in a row; the distribution's longest row has a tenth of it."""
Source = str | Path | bytes | ModuleFile


def load_module(
    kernel: SimulatedKernel,
    source: Source,
    *,
    addresses: Callable[[str], Address] | None = None,
    percpu: int | None = None,
    record: bool = False,
    unknown: bool = False,
) -> LoadedModule:
    """Load a module and do to it everything that the kernel's loader does, its init function apart.

    Modules that it depends on must have been loaded (see `load_with_dependencies`).
    `addresses` gives the base of each allocation (`core`, `init`; `text`,
    `rodata`, ... from 6.4) and `percpu` that of its per-CPU data, where they
    are known from a real kernel. With `record` each patched site is kept.
    Raises LoadError, saying what the kernel would, for what it would not load,
    InputError for what is no module, and UnknownError, unless `unknown` tables may be
    taken for plain data as the kernel takes them; nothing is changed then.
    """
    module = source if isinstance(source, ModuleFile) else ModuleFile.read(source)
    for table in () if unknown else unknown_tables(module):
        raise UnknownError(
            f"section {table} is of no known kind: it may be a table that code is patched by", where=module.where
        )
    name = module.name or _name_in_struct(kernel, module)
    if not name:
        raise LoadError("has no name, neither in its .modinfo nor in its struct module", where=module.where)
    if name in kernel.modules:
        raise LoadError(f"module {name} is already loaded", where=module.where)
    loaded = _allocate(kernel, module, name, addresses, percpu)
    try:
        _fill(kernel, loaded, record)
    except BaseException:
        kernel.forget(loaded)
        raise
    return loaded


def _name_in_struct(kernel: SimulatedKernel, module: ModuleFile) -> str:
    """setup_load_info(): mod->name, where .modinfo has none."""
    this, layout = module.find(THIS_MODULE), kernel.kernel.layout("module")
    name = layout.member("name")
    field = this.data[name.offset : name.offset + name.size] if this is not None else b""
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _allocate(
    kernel: SimulatedKernel,
    module: ModuleFile,
    name: str,
    addresses: Callable[[str], Address] | None,
    percpu: int | None,
) -> LoadedModule:
    layout = lay_out(module, kernel.kernel.features)
    regions: list[Region] = []
    where = addresses or (lambda memory: kernel.area.allocate(layout.memories[memory]))
    bases: dict[str, Address] = {}
    for memory, size in layout.memories.items():
        bases[memory] = where(memory)
        protection = PROTECTION.get(memory.removeprefix("init_"), "rwx")
        data = bytearray((size + PAGE - 1) // PAGE * PAGE)
        regions.append(Region(bases[memory], data, f"{name}:{memory}", protection))
    placed = place(module, layout, bases.__getitem__)
    for section in placed:
        content = module.object.sections[section.index].data
        if content:
            region = regions[list(bases).index(layout.places[section.index][0])]
            at = section.address - region.base
            region.data[at : at + len(content)] = content
    loaded = LoadedModule(module, name, placed, tuple(regions), [])
    per_cpu_section = module.find(PERCPU)
    try:
        for region in regions:
            kernel.memory.add(region)
        if per_cpu_section is not None and per_cpu_section.size:
            if percpu is None:
                percpu = kernel.percpu.allocate(per_cpu_section.size, per_cpu_section.alignment)
            loaded.percpu = percpu
    except LoadError:
        kernel.forget(loaded)
        raise
    return loaded


def _fill(kernel: SimulatedKernel, loaded: LoadedModule, record: bool) -> None:
    module = loaded.file
    loaded.values = _simplify_symbols(kernel, loaded)
    by_index = {section.index: section for section in loaded.sections}
    for section in module.object.sections:
        target = by_index.get(SectionIndex(section.info))
        if section.index == 0 or target is None:
            continue
        if section.flags & elf.SHF_RELA_LIVEPATCH:
            livepatch.apply_section(kernel, loaded, section, target, "vmlinux")
        elif section.type == elf.SHT_RELA:
            relocate(kernel, loaded, section.index, target)
    _run_passes(kernel, loaded, record)
    _publish(kernel, loaded)
    kernel.modules[loaded.name] = loaded
    livepatch.module_coming(kernel, loaded)


def relocate(kernel: SimulatedKernel, loaded: LoadedModule, index: SectionIndex, target: Placed) -> None:
    """One RELA section."""
    table = loaded.file.object.sections[index]
    where = f"{loaded.file.where}: {table.name}"
    count = apply_relocations(RelocationTarget.of(kernel.memory, target), table.data, loaded.values, where)
    loaded.relocations[table.name] = loaded.relocations.get(table.name, 0) + count


def _simplify_symbols(kernel: SimulatedKernel, loaded: LoadedModule) -> list[Address]:
    """simplify_symbols(): st_value becomes an address; symbols of livepatch are left at 0."""
    module = loaded.file
    base = {section.index: section.address for section in loaded.sections}
    per_cpu = module.find(PERCPU)
    if per_cpu is not None:
        base[per_cpu.index] = Address(loaded.percpu or 0)
    values: list[Address] = []
    unknown: list[str] = []
    for symbol in module.object.symbols:
        shndx, value = symbol.shndx, Address(symbol.value)
        if 0 < shndx < elf.RESERVED:
            value = base.get(shndx, Address(0)) + symbol.value
        elif shndx == elf.SHN_UNDEF and symbol.index:
            export = kernel.symbols.export(symbol.name)
            if export is not None:
                value = export.address
                if isinstance(export, ModuleExport) and export.owner != loaded.name:
                    kernel.modules[export.owner].users.add(loaded.name)
            elif symbol.bind != elf.STB_WEAK and symbol.name != "_GLOBAL_OFFSET_TABLE_":
                unknown.append(symbol.name)
        elif shndx == elf.COMMON and not symbol.name.startswith("__gnu_lto"):
            raise LoadError(f"please compile with -fno-common (symbol {symbol.name})", where=module.where)
        values.append(value)
    if unknown:
        raise UnknownSymbolError(unknown, where=module.where)
    return values


def _run_passes(kernel: SimulatedKernel, loaded: LoadedModule, record: bool) -> None:
    tables = {section.name: Table(section.address, section.size) for section in loaded.sections}
    features, module = kernel.kernel.features, loaded.file.where
    context = Context(kernel, tables, _text(loaded, features.module_memory), loaded, record)
    for row in PASSES:
        if row.applies(features):
            context.step = row.name
            try:
                row.apply(context)
            except (struct.error, IndexError, OverflowError, ValueError) as error:
                raise LoadError(f"{row.name}: {' or '.join(row.tables)} is damaged: {error}", where=module) from None
            except LoadError as error:
                raise UncheckedError(f"{row.name}: {error}", where=module) from None
    loaded.counts, loaded.sites = context.counts, context.sites
    loaded.ftrace, loaded.breaks_ftrace = context.traced, context.breaks_ftrace
    loaded.warnings = tuple(context.warnings)


def _text(loaded: LoadedModule, separate: bool) -> tuple[Address, Address]:
    """What lock prefixes are removed from: `.text` (v6.1), or the allocation for code (v6.4)."""
    if separate:
        region = next((r for r in loaded.regions if r.name.endswith(":text")), None)
        return (region.base, region.end) if region else (Address(0), Address(0))
    found = [s for s in loaded.sections if s.name == ".text"]
    return (found[-1].address, found[-1].end) if found else (Address(0), Address(0))


def _publish(kernel: SimulatedKernel, loaded: LoadedModule) -> None:
    """Exports and kallsyms of a module (find_module_sections, add_kallsyms)."""
    memory = kernel.memory
    flags = loaded.section("__kflagstab")
    names = []
    for suffix, gpl in (("", False), ("_gpl", True)):
        table, crcs = loaded.section(f"__ksymtab{suffix}"), loaded.section(f"__kcrctab{suffix}")
        for i in range(table.size // 12 if table is not None else 0):
            assert table is not None
            at = table.address + 12 * i
            name = memory.string(at + 4 + memory.s32(at + 4))
            space = memory.s32(at + 8)
            crc = memory.u32(crcs.address + 4 * i) if crcs is not None and 4 * i < crcs.size else None
            if kernel.symbols.export(name) is not None:
                raise LoadError(f"exports duplicate symbol {name}", where=loaded.file.where)
            kernel.symbols.exported[name] = ModuleExport(
                name,
                at + memory.s32(at),
                crc,
                gpl or _gpl_only(memory, flags, i),
                memory.string(at + 8 + space) if space else "",
                loaded.name,
            )
            names.append(name)
            loaded.exports = tuple(names)
    kernel.symbols.of_module[loaded.name] = ModuleKallsyms(loaded)


def _gpl_only(memory: Memory, flags: Placed | None, number: int) -> bool:
    """KSYM_FLAG_GPL_ONLY of an export, in a kernel with `__kflagstab` (include/linux/module_symbol.h, v7.0)."""
    return flags is not None and number < flags.size and bool(memory.u8(flags.address + number) & 1)


def load_with_dependencies(
    kernel: SimulatedKernel,
    source: Source,
    find: Mapping[str, Path] | None = None,
    *,
    record: bool = False,
    waiting: tuple[str, ...] = (),
) -> LoadedModule:
    """Load what a module depends on, from the kernel's own tree (or `find`), then the module.

    `waiting` are the modules that wait for this one. Raises LoadError where one is not to be found or waits for
    itself.
    """
    module = source if isinstance(source, ModuleFile) else ModuleFile.read(source)
    for name in module.depends:
        if name not in kernel.modules:
            if name in waiting or len(waiting) > _DEEPEST:
                raise LoadError(f"depends on {name}, which waits for it or for too many others", where=module.where)
            path = (find or {}).get(name) or kernel.kernel.find_module(name)
            if path is None:
                raise LoadError(f"depends on {name}, which is not to be found", where=module.where)
            load_with_dependencies(kernel, path, find, waiting=(*waiting, name))
    return load_module(kernel, module, record=record)


def free_init(kernel: SimulatedKernel, loaded: LoadedModule) -> None:
    """What do_init_module does at its end: the memory of `.init*` goes."""
    gone = [region for region in loaded.regions if ":init" in region.name]
    loaded.regions = tuple(region for region in loaded.regions if ":init" not in region.name)
    for region in gone:
        kernel.memory.remove(region)


def unload_module(kernel: SimulatedKernel, name: str) -> None:
    """Take a module out: its memory, its exports and what it redirected. LoadError where it is in use."""
    loaded = loaded_module(kernel, name)
    if loaded.users:
        raise LoadError(f"module {name} is in use by {', '.join(sorted(loaded.users))}")
    if any(patch.module == name and patch.enabled for patch in kernel.livepatches):
        raise LoadError(f"livepatch {name} is in use: it is enabled")
    livepatch.module_going(kernel, name)
    kernel.forget(loaded)

"""Where each section of a module goes.

layout_sections (kernel/module/main.c): executable sections, then read-only
ones, those that are read-only after init, writable ones; in the order of their
index; `.init*` in the same way in memory of its own. Up to 6.3 the four are
page-aligned parts of one allocation (v6.1); from 6.4 each is an allocation
(`struct module_memory`, v6.12).

Which sections are read-only after init said two names in layout_and_allocate, the first
section of each; from v6.16 on module_mark_ro_after_init (kernel/module/strict_rwx.c) has a list
of three, and takes every section of such a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from builder.binary import Address, Section, SectionIndex, elf
from builder.binary.kernel import Features
from builder.binary.module import ModuleFile
from builder.errors import LoadError
from builder.image.memory import PAGE
from builder.load.module import PERCPU, Placed

KINDS = ("text", "rodata", "ro_after_init", "data")
PROTECTION = {"text": "rx", "rodata": "r", "ro_after_init": "r", "data": "rw"}
UNTRACKED = (".modinfo", "__versions", "__version_ext_crcs", "__version_ext_names")
"""rewrite_section_headers: tracked but not kept."""
RO_AFTER_INIT = (".data..ro_after_init", "__jump_table")
MOST_MEMORY = 256 << 20
"""The largest module of a distribution takes a tenth of it; the kernel would fail to allocate more."""


@dataclass(frozen=True, slots=True)
class ModuleLayout:
    """`memories`: name of each allocation -> bytes; `places`: section index -> (allocation, offset, kind)."""

    memories: Mapping[str, int]
    places: Mapping[SectionIndex, tuple[str, int, str]]


def lay_out(module: ModuleFile, features: Features) -> ModuleLayout:
    """Offsets of all sections, in a kernel with these features."""
    separate = features.module_memory
    sizes: dict[str, int] = {}
    places: dict[SectionIndex, tuple[str, int, str]] = {}
    after_init = _ro_after_init(module, features)
    percpu = module.find(PERCPU)
    skipped = {section.index for name in UNTRACKED if (section := module.find(name)) is not None}
    if percpu is not None:
        skipped.add(percpu.index)
    sections = [s for s in module.object.sections if s.flags & elf.SHF_ALLOC and s.index not in skipped]
    for prefix in ("", "init_"):
        mine = [s for s in sections if s.name.startswith(".init") == bool(prefix)]
        for kind in KINDS:
            memory = prefix + kind if separate else prefix or "core"
            memory = memory.rstrip("_")
            size = sizes.get(memory, 0)
            for section in mine:
                if section.index not in places and _is(kind, section, section.index in after_init):
                    align = section.alignment
                    size = (size + align - 1) // align * align
                    places[section.index] = (memory, size, prefix + kind)
                    size += section.size
            if not separate:
                size = (size + PAGE - 1) // PAGE * PAGE
            if size > MOST_MEMORY:
                raise LoadError(f"its sections need {size} bytes of memory", where=module.where)
            if size:
                sizes[memory] = size
    return ModuleLayout(sizes, places)


def _ro_after_init(module: ModuleFile, features: Features) -> set[SectionIndex]:
    if features.marks_ro_after_init:
        return {s.index for s in module.object.sections if s.name in (*RO_AFTER_INIT, ".static_call_sites")}
    return {section.index for name in RO_AFTER_INIT if (section := module.find(name)) is not None}


def _is(kind: str, section: Section, after_init: bool) -> bool:
    """The masks of layout_sections, in their order: a section goes to the first kind that fits."""
    if kind == "text":
        return section.is_exec
    if kind == "rodata":
        return not section.is_write
    if kind == "ro_after_init":
        return after_init
    return section.is_write


def place(module: ModuleFile, layout: ModuleLayout, base_of: Callable[[str], Address]) -> tuple[Placed, ...]:
    """Sections with addresses, in index order; `base_of` gives the address of each allocation."""
    bases = {name: base_of(name) for name in layout.memories}
    found = []
    for index in sorted(layout.places):
        memory, offset, kind = layout.places[index]
        section = module.object.sections[index]
        found.append(
            Placed(
                index,
                section.name,
                bases.get(memory, Address(0)) + offset,
                section.size,
                section.flags,
                section.type,
                kind,
            )
        )
    return tuple(found)

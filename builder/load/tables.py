"""Which sections of a module the loader knows: those of a pass, those that are taken as they are, plain code and data.

What is in none of these may be a table of a newer kernel, by which code is
patched: loading such a module as if it had none would make it another one.
kCFI's `.cfi_sites` is one: FineIBT rewrites by it, and needs a kernel built by clang
(CONFIG_FINEIBT depends on CFI_CLANG, arch/x86/Kconfig, v6.2), which no kernel of the distribution is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from builder.binary import elf
from builder.binary.module import ModuleFile
from builder.binary.tables import NAMED
from builder.load.passes import PASSES

ORDINARY = re.compile(
    r"\.(text|data|rodata|bss|init|exit|ref|meminit|sched|noinstr|kprobes|static_call|note|softirqentry|irqentry|cold"
    r"|lrodata|ldata|lbss|entry|cpuidle|spinlock|fixup|discard)\b.*"
    r"|\.(modinfo|altinstr_aux|orc_header|BTF_ids|printk_index|gnu\.linkonce\.this_module|strtab|symtab|eh_frame)"
    r"|\.rela?\..*|\.klp\..*|\.bespoke.*|\.kunit_.*"
)
"""Sections that hold code, data or notes, and nothing that a pass must know."""
TABLES = frozenset((
    "__bug_table", "__kcrctab", "__kcrctab_gpl", "__kflagstab", "__ksymtab", "__ksymtab_gpl", "__ksymtab_strings",
    "__patchable_function_entries", "__versions", "__obsparm", "__tracepoint_check",
    *(row.name for row in NAMED),
))  # fmt: skip
"""Tables that the kernel takes as they are (find_module_sections; NAMED says more of most), and no pass rewrites."""
LEFT_ALONE = re.compile(r"runtime_(ptr|shift)_\w+")
"""What only the image's own tables are applied of, at boot (asm/runtime-const.h, v6.11): code of a module keeps the
constant that it was compiled with. Modules of 6.16 have such a section, those of later releases none."""
READ_AT_ONCE = ("__jump_table", ".static_call_sites", ".altinstructions", ".altinstr_replacement", ".parainstructions")
"""What the kernel has read by the time that relocations naming another object are written."""


def unknown_tables(module: ModuleFile) -> Iterator[str]:
    """Names of the sections of a module that are of no known kind."""
    known = TABLES | {table for row in PASSES for table in row.tables}
    for section in module.object.sections:
        if not section.is_alloc or not section.size or section.type == elf.SHT_RELA:
            continue
        # Linked where nothing is tagged: padding, which the kernel never looks at (asm-generic/codetag.lds.h, v6.16).
        is_padding = section.name.startswith(".codetag.") and section.type == elf.SHT_NOBITS
        is_known = section.name in known or ORDINARY.fullmatch(section.name) or LEFT_ALONE.fullmatch(section.name)
        if not is_padding and not is_known:
            yield section.name

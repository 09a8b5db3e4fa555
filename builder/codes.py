"""Every code that a refusal, a warning or a finding can have: one without a row here cannot be made.

A code is part of the contract with scripts (`--allow CODE:SYMBOL`, the rows of `--json`), so a row stays once a
release has had it. To add one: its row here, and its section in `docs/codes/PAGE.md` with an example that triggers it
and the way out (docs/codes/index.md says how examples are written; tests/docs/ runs them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Page = Literal["change", "kernel", "patch", "mark", "module"]
"""Where a code comes up first, which is the name of its page: in the comparison of two objects, when they are bound to
a kernel, in a source patch, in a mark, or in a module that is checked."""


@dataclass(frozen=True, slots=True)
class Code:
    """`name` is what people and scripts see, `means` says it in one line."""

    name: str
    page: Page
    means: str


class WrittenCode(str):
    """A code as a module's manifest has it: of another version of Bespoke, which may have had others."""

    __slots__ = ()


def known(code: str) -> None:
    """ValueError for a code without a row: a defect of whoever makes it."""
    if code not in CODES and not isinstance(code, WrittenCode):
        raise ValueError(f"the code {code!r} has no row in builder/codes.py")


def unknown(code: str) -> str:
    """What to say of a word that is no code: which ones it may mean."""
    from difflib import get_close_matches  # here, for it is slow to import and most codes are known

    near = get_close_matches(code, CODES, 3)
    return f"there is no code {code}" + (f"; like it: {', '.join(near)}" if near else "")


def _rows(page: Page, **means: str) -> list[Code]:
    return [Code(name.replace("_", "-"), page, text) for name, text in means.items()]


CODES: Final[Mapping[str, Code]] = MappingProxyType({code.name: code for code in (
    *_rows(
        "change",
        # who can be redirected
        no_fentry="a changed function that cannot be redirected, and callers that do not carry it",
        no_ftrace_file="a whole file that is built without ftrace locations",
        noinstr="code that must not be instrumented",
        vdso="code that user space runs",
        never_returns="a function that a thread does not leave, so that the transition would not end",
        # code for start and end
        init_changed="code changed that runs only at start",
        exit_changed="code changed that runs only when a module is unloaded",
        init_reference="code that runs later uses memory that is freed after the start",
        leaves_init="a variable that was freed after the start is to be used later",
        never_set="a new variable that only code which is left out would set",
        # data
        data_changed="another initial value of a variable that is in use",
        data_grown="a variable that is larger than the one in use",
        rodata_changed="read-only data changed that others go on using",
        static_ambiguous="a static variable whose original nothing tells",
        static_removed="a static variable that is gone",
        static_renamed="a variable that takes the place of one that is gone",
        storage_changed="a thing that is kept in another way than the one in use",
        struct_layout="a structure with another layout, of which old objects live on",
        # names and places
        alias_changed="another name of a function or variable that leads elsewhere now",
        address_ambiguous="an address where one thing ends and another begins",
        label_escape="addresses inside a function that something outside keeps",
        comdat="a function or variable of which other objects have copies",
        unnamed_data="data that no symbol covers",
        export_changed="an export that is gone, or for another licence",
        export_added="a new export, which is left out",
        sched_text="a function of the scheduler's section, which the new one is not in",
        # what the kernel finds by the section's name
        unregistered="what only the kernel's own tables make work",
        param_left_out="a parameter, which nobody can set in a livepatch",
        unknown_table="a section whose entries are not understood",
        # the books
        unaccounted="a difference that no rule accounts for",
        not_compared="what could not be compared for want of debug information",
    ),
    *_rows(
        "kernel",
        owner_ambiguous="which object of the kernel the code belongs to is not plain",
        function_not_found="the kernel has no such function",
        run_pre_mismatch="the old function is not the code that runs",
        ambiguous_symbol="several symbols of one name, and nothing that tells which is meant",
        symbol_unresolved="the kernel has no such symbol, or several",
        weak_overridden="a weak function that the kernel has another definition of",
        static_key_module="a jump label on a static key that a module owns, without room for a test of it",
        late_relocation="code that the kernel patches before what it refers to is bound",
        copy_by_jump="a function that ends with a jump to a copy, which a sleeping task may be in unseen",
        exported_copy="an exported function that modules which are not looked at go on calling",
        entry_dropped="a tracepoint that stays off in the new version",
        sealed_endbr="a new pointer to a function that may not be called indirectly",
        replace_loses_state="variables of an earlier livepatch that go with it",
        no_effect="a module that would replace no function that runs",
    ),
    *_rows(
        "patch",
        patch_makefile="a change of how the kernel is built",
        patch_kconfig="a change of the configuration",
        patch_assembler="assembler, or a linker script",
        patch_generated="a source that other files are generated from",
        patch_generated_header="a header from which values for assembler are generated",
        patch_unknown_file="a file of no known kind",
        patch_new_file="a new source file",
        patch_removed_file="a file that is removed",
        patch_renamed_file="a file that is renamed",
        patch_copied_file="a copy of another file",
        patch_binary_file="a binary file",
        patch_not_built="a file that no object of this configuration is made from",
        patch_not_linked="a file that becomes part of what cannot be patched",
        patch_user_unseen="users of a header that could not be looked at",
        patch_many_users="a header with more users than the limit",
        patch_no_code="a file without code, which is left out",
        patch_moved="hunks that stand elsewhere than the patch says",
        compiler_differs="a compiler that is not the one of the kernel",
        config_drift="an option of the kernel that the source cannot be configured with",
    ),
    *_rows(
        "mark",
        mark_place="a place that is none, or several",
        mark_expression="an expression that cannot be read or compiled there",
        mark_format="a format that does not fit its expressions",
        mark_side_effect="an expression that would change something",
    ),
    *_rows(
        "module",
        # refused by the kernel
        elf="no ELF file that the kernel takes",
        this_module="no struct module of this kernel",
        modinfo="more than one .modinfo",
        write_exec="a section that is writable and executable",
        vermagic="a module for another kernel, or none that says for which",
        livepatch="a livepatch for a kernel that takes none",
        unknown_symbol="a symbol that nothing exports, or not for this licence",
        namespace="a symbol of a namespace that is not imported",
        export_flags="exports without the flags that this kernel wants",
        no_versions="a module without versions of its symbols",
        no_version="a symbol whose version is missing",
        crc="a symbol of another version",
        signature="a signature that is not that of the module",
        load="a module that the loader gives up on",
        enable="a livepatch that the kernel does not enable",
        # taken by the kernel, to its harm
        malformed="a file that is not what it says",
        memory="something written where nothing checks",
        init="an init function that crashes",
        object="a module that it needs cannot be loaded itself",
        object_unknown="a module that it patches was not found",
        dead_table="a table that this kernel does not read",
        klp_flag="livepatch relocations that the kernel does not know as such",
        klp_target="livepatch relocations of what is not in memory",
        klp_late="livepatch relocations of what has been used before",
        klp_unresolved="a livepatch symbol that nobody gives a value",
        overlap="one place that two tables have patched",
        return_sites="a return that is not patched as the CPU needs it",
        warning="a warning of the kernel while it loads the module",
    ),
)})  # fmt: skip
"""By name, in the order of the pages."""

"""Special tables: sections whose entries belong to the code they point at.

A row says how entries of one table are found, not how large they are: the
stride comes from sh_entsize or from how the relocations repeat, since kernels
change the sizes (struct alt_instr 12 -> 14 bytes in 6.3, struct orc_entry with
a header section in 6.4). Where that says two things or nothing, it is an error,
and so is a form of which more than its size must be known. To add a table, add
a row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, repeat
from typing import Final, Literal, NamedTuple

from builder.binary.kinds import SectionIndex, SectionOffset
from builder.binary.objects import ObjectFile, Relocation, Section
from builder.errors import UnknownError


@dataclass(frozen=True, slots=True)
class TableRow:
    """How one special table ties its entries to code.

    An entry has `relocs` to `most` relocations; the first one names the owner.
    `derived` tables follow from the instructions alone and say nothing of their
    own when two functions are compared. With `lines` a 16-bit source line number
    follows the last relocation (struct bug_entry, include/asm-generic/bug.h).
    `late` tables are consumed when the module is finalized, before relocations
    against another module's symbols are written; `if_bound_late` says what becomes of
    an entry whose code refers to such a symbol. In a `unique` table one site has one
    entry; more of them are not the compiler's and the first one counts. `struct` is
    what the kernel takes an entry for, and `length` the member of it that holds how many
    bytes of code an entry has patched, where that is not one instruction. `lengths` maps each known size of an
    entry to the offset of a byte in it: where that is zero, the relocations behind the
    first one lead to nothing. An entry of a table that `follows` is about one instruction, wherever that lies.
    """

    name: str
    relocs: int
    most: int
    derived: bool = False
    paired: str = ""
    lines: bool = False
    late: bool = False
    unique: bool = False
    lengths: tuple[tuple[int, int], ...] = ()
    if_bound_late: Literal["refused", "left out", "kept"] = "refused"
    struct: str = ""
    length: str = ""
    follows: bool = False


# replacementlen of struct alt_instr (arch/x86/include/asm/alternative.h): after s32 instr_offset, s32 repl_offset,
# u16 cpuid, u8 instrlen; v4.1 to v5.12 have u8 padlen behind it, v6.3 and later u16 flags before instrlen.
_REPLACEMENT: Final = ((12, 11), (13, 11), (14, 13))

TABLES: Final = (
    TableRow("__bug_table", 1, 3, lines=True, struct="bug_entry", follows=True),
    TableRow("__ex_table", 2, 3, struct="exception_table_entry"),
    TableRow("__jump_table", 3, 3, late=True, unique=True, struct="jump_entry"),
    TableRow(".static_call_sites", 2, 2, late=True, unique=True, struct="static_call_site"),
    # struct alt_instr: u8 instrlen, at 10 up to 6.2, at 12 from 6.3 on (arch/x86/include/asm/alternative.h)
    TableRow(".altinstructions", 1, 2, late=True, lengths=_REPLACEMENT, struct="alt_instr", length="instrlen"),
    TableRow(".parainstructions", 1, 1, late=True),
    # the prefix is patched, and no operand
    TableRow(".smp_locks", 1, 1, derived=True, late=True, if_bound_late="kept", follows=True),
    TableRow(".retpoline_sites", 1, 1, derived=True, late=True, follows=True),
    TableRow(".return_sites", 1, 1, derived=True, late=True, follows=True),
    # calls are only counted (call depth tracking), and this one's target is not known yet
    TableRow(".call_sites", 1, 1, derived=True, late=True, if_bound_late="left out", follows=True),
    TableRow(".ibt_endbr_seal", 1, 1, derived=True, late=True),
    TableRow(".cfi_sites", 1, 1, derived=True, late=True),
    TableRow("__mcount_loc", 1, 1, derived=True),
    TableRow("__patchable_function_entries", 1, 1, derived=True),
    TableRow(".orc_unwind_ip", 1, 1, derived=True, paired=".orc_unwind"),
    TableRow(".kcfi_traps", 1, 1, derived=True),
)
BY_NAME: Final = {row.name: row for row in TABLES}

# Code and data that entries refer to and that has no symbol of its own.
ANNEXES: Final = frozenset({".altinstr_replacement", ".altinstr_aux", ".fixup", ".static_call.text"})

# Never travel, unless NAMED says otherwise: read by the build of the kernel, not by the kernel. The names of sections
# are these, or go on with another word; that of an initcall goes on with its level.
_DISCARDED: Final = (
    ".discard.", ".comment", ".note.", ".debug_", ".modinfo", "__versions", ".eh_frame", ".llvm_addrsig", ".BTF",
    "___ksymtab", "___kcrctab", "__ksymtab", "__kcrctab", ".export_symbol", ".init", ".exit",
    "_error_injection_whitelist", "__param", "__kentry", "_ftrace_", "__syscalls_metadata", "__tracepoints",
    "__bpf_raw_tp_map", "_kprobe_blacklist", ".printk_index", "__dyndbg", "__verbose", "__ftrace", ".kpatch.",
    ".klp.", ".gnu.linkonce.this_module", ".cpuidle", ".stack_sizes", "__ro_after_init", ".rela", ".static_call_tramp",
)  # fmt: skip


@lru_cache(maxsize=65536)
def is_discarded(section: str) -> bool:
    """Whether a section of this name is for the build or the loader only: nothing that runs reads it."""
    for name in _DISCARDED:
        rest = section.removeprefix(name)
        if rest != section and not (rest[:1].isalnum() and name[-1].isalnum()):
            return True
    return section.startswith((".initcall", ".exitcall"))


@dataclass(frozen=True, slots=True)
class NamedSection:
    """A section that the kernel, or its build, finds by its name, and what becomes of new things in it.

    What is `kept` travels and keeps the section's name: as any datum does, or `with_target`, when what it points at
    does (nothing refers to the entry itself). New things in the others have no effect in a module: `warned` of,
    or `refused`, `fatal` where code that uses them would go wrong; what only goes `with another` is judged there.
    The entries of an `array` lie side by side.
    """

    name: str
    becomes: Literal["kept", "with target", "with another", "warned", "refused"]
    what: str
    advice: str = ""
    array: bool = False
    fatal: bool = False
    code: str = "unregistered"

    @property
    def is_kept(self) -> bool:
        return self.becomes in ("kept", "with target")


STATES: Final = ".bespoke.states"
"""Where the author of a patch puts each struct klp_state of it; struct klp_patch.states leads to its begin."""
_TRACE = "use trace_printk(), or plant a probe in the new function (bespoke probe)"
_PCI_FIXUPS: Final = ("early", "header", "final", "enable", "resume", "resume_early", "suspend", "suspend_late")

# By the name of the section, to which a dot and more may be added. find_module_sections (kernel/module/main.c) and the
# notifiers of modules in v6.1, v6.12 and v7.2; include/asm-generic/vmlinux.lds.h for what only an image has.
NAMED: Final = (
    # kernel/trace/trace_printk.c: the formats are copied when the module comes; what is in no such list is not traced
    NamedSection("__trace_printk_fmt", "kept", "the format of a trace_printk()", array=True),
    NamedSection(".data..percpu", "kept", "a per-CPU variable"),
    NamedSection(STATES, "kept", "a state of the system that a livepatch changes", array=True),
    NamedSection(".data..ro_after_init", "kept", "a variable that is read-only after init"),
    # kernel/rcu/srcutree.c, srcu_module_coming(): initialized and cleaned up by this list
    NamedSection("___srcu_struct_ptrs", "with target", "an SRCU domain", array=True),
    # kernel/kprobes.c, add_module_kprobe_blacklist()
    NamedSection(
        "_kprobe_blacklist", "with target", "a function in which no probe may stand",
        "nothing to do unless somebody may plant a probe there", array=True,
    ),
    NamedSection(".kprobes.text", "kept", "code in which no probe may stand"),
    NamedSection(".noinstr.text", "kept", "code in which no probe may stand"),
    NamedSection(
        "__dyndbg_classes", "refused", "a class of debug messages (DECLARE_DYNDBG_CLASSMAP)",
        "accept that the class cannot be switched by name, or use pr_debug() without a class",
    ),
    NamedSection("__dyndbg", "kept", "a debug message that can be switched on (pr_debug)", array=True),
    # kernel/tracepoint.c, trace_module_has_bad_taint(): those of a livepatch are not taken (TAINT_LIVEPATCH)
    NamedSection("__tracepoints_ptrs", "with another", "a part of a tracepoint"),
    NamedSection("__tracepoints_strings", "with another", "a part of a tracepoint"),
    NamedSection("__bpf_raw_tp_map", "with another", "a part of a tracepoint"),
    NamedSection("__tracepoints", "refused", "a tracepoint, which the kernel takes from no livepatch", _TRACE),
    NamedSection("_ftrace_events", "refused", "a trace event, which the kernel takes from no livepatch", _TRACE),
    NamedSection(
        "_ftrace_eval_map", "refused", "the name of a value in the format of trace events",
        "accept that trace events show the number",
    ),
    # kernel/trace/trace_printk.c: only the image's are known; with them trace_safe_str() lets a string be shown
    NamedSection(
        "__tracepoint_str", "warned", "a string for trace events (tracepoint_string), which only the image can have",
        "nothing to do unless the trace event is read: it shows an address in place of the string",
    ),
    NamedSection("_error_injection_whitelist", "refused", "a function that may be made to fail (ALLOW_ERROR_INJECTION)",
                 "accept that it cannot be made to fail"),
    NamedSection(".kunit_test_suites", "refused", "a suite of KUnit tests", "put the tests into a module of their own"),
    NamedSection(".ctors", "refused", "a constructor, which runs before the module starts", "call it in a callback"),
    NamedSection(".init_array", "refused", "a constructor, which runs before the module starts",
                 "call it in a callback"),
    NamedSection(".printk_index", "warned", "a format in the index of messages (printk/index)",
                 "nothing to do unless something reads that index"),
    NamedSection(
        "__param", "warned", "a parameter, which has the value of its initializer for good",
        "set another value in a callback (pre_patch), or let the code read it from elsewhere", code="param-left-out",
    ),
    NamedSection(
        ".init.setup", "warned", "a parameter of the kernel's command line, which was read long ago",
        "set another value in a callback (pre_patch), or let the code read it from elsewhere", code="param-left-out",
    ),
    NamedSection(".BTF_ids", "refused", "a list of BTF ids, which the kernel's build fills in",
                 "look the ids up when the code runs (btf_find_by_name_kind)", fatal=True),
    NamedSection(".data..decrypted", "refused", "a variable that lies in memory shared with the host",
                 "allocate it and share it (set_memory_decrypted)", fatal=True),
    NamedSection(".bss..decrypted", "refused", "a variable that lies in memory shared with the host",
                 "allocate it and share it (set_memory_decrypted)", fatal=True),
    NamedSection(".data..nosave", "refused", "a variable that hibernation leaves out",
                 "accept that its value comes back as it was saved"),
    # drivers/pci/quirks.c, pci_fixup_device(): the image's own are walked, whose entries lead to what is redirected
    *(NamedSection(f".pci_fixup_{when}", "refused", "a fixup of PCI devices, which only the image can have",
                   "call it for its devices in a callback (post_patch), or accept that the image's fixups stay")
      for when in _PCI_FIXUPS),
)  # fmt: skip

# Where compilers and the macros of storage classes put data; what lies elsewhere is found by the section's name.
_STORAGE: Final = re.compile(r"\.(data|bss|rodata|ref\.data|ref\.rodata|text|static_call\.text)([._].*)?")


def named(section: Section) -> NamedSection | None:
    """The row of a section that is found by its name; one of no known meaning is refused. None for plain storage."""
    found = _named(section.name)
    plain = section.is_exec or is_discarded(section.name) or _STORAGE.fullmatch(section.name)
    if found is None and not plain:
        return NamedSection(section.name, "refused", "in a section that is found by its name", _UNKNOWN)
    return found


_UNKNOWN: Final = "add a row for the section to NAMED in builder/binary/tables.py, or accept that it has no effect"


def without_effect(name: str) -> NamedSection | None:
    """The row of sections of this name where what they hold has no effect in a module; None for all others."""
    found = _named(name)
    return found if found is not None and found.becomes == "refused" else None


@lru_cache(maxsize=65536)
def _named(name: str) -> NamedSection | None:
    return next((row for row in NAMED if name == row.name or name.startswith(row.name + ".")), None)


class Entry(NamedTuple):
    """One entry: its bytes' place in the table and its relocations (offsets are the section's)."""

    table: TableRow
    section: SectionIndex
    index: int  # type: ignore[assignment]  # the entry's number, not tuple.index
    start: SectionOffset
    end: SectionOffset
    relocations: tuple[Relocation, ...]

    @property
    def site(self) -> Relocation:
        """The relocation that names the owner."""
        return self.relocations[0]

    @property
    def length(self) -> SectionOffset | None:
        """Where the byte lies that says how much there is of what the entry leads to; None in most tables."""
        return next((self.start + at for size, at in self.table.lengths if size == self.end - self.start), None)


def entries(obj: ObjectFile, section: Section, row: TableRow) -> tuple[Entry, ...]:
    """All entries of a table, in order.

    Raises UnknownError when the stride cannot be told, or an entry has another
    number of relocations or another size than any that is known, or ends behind
    its section: guessing would give an entry to the wrong function.
    """
    relocations = sorted(obj.relocations_of(section.index))
    if not section.size:
        return ()
    if section.is_nobits:
        raise UnknownError(f"section {section.name} is a table without bytes", where=obj.name)
    stride = table_stride(obj, section, row, relocations)
    if row.lengths and stride not in dict(row.lengths):
        known = " or ".join(str(size) for size, _ in row.lengths)
        raise UnknownError(f"section {section.name}: entries of {stride} bytes, not {known}", where=obj.name)
    if row.most == 1 and [r.offset // stride for r in relocations] == list(range(section.size // stride)):
        return _single(section, row, stride, relocations)
    _require_whole(obj, section, stride, relocations)
    out: list[Entry] = []
    position, total, (_, last) = 0, len(relocations), section.extent
    for index, start in enumerate(map(SectionOffset, range(0, section.size, stride))):
        end = min(start + stride, last)
        first = position
        while position < total and relocations[position].offset < end:
            position += 1
        own = tuple(relocations[first:position])
        if not row.relocs <= len(own) <= row.most:
            known = f"{row.relocs} to {row.most}" if row.most > row.relocs else f"{row.relocs}"
            raise UnknownError(
                f"section {section.name}: entry {index} at {start:#x} has {len(own)} relocations, not {known}",
                where=obj.name,
            )
        out.append(Entry(row, section.index, index, start, end, own))
    return tuple(out)


def _single(section: Section, row: TableRow, stride: int, relocations: Sequence[Relocation]) -> tuple[Entry, ...]:
    """The entries of a table in which each has one relocation, as of the largest: made without a step for each."""
    starts, ends = range(0, section.size, stride), range(stride, section.size + 1, stride)
    rows = zip(repeat(row), repeat(section.index), count(), starts, ends, zip(relocations), strict=False)
    return tuple(map(tuple.__new__, repeat(Entry), rows))


def _require_whole(obj: ObjectFile, section: Section, stride: int, relocations: Sequence[Relocation]) -> None:
    """What the last entry lacks must be what none has: the filler up to the next one (`.balign` stands before each)."""
    there = section.size % stride
    if not there:
        return
    last = section.size - there
    rests = (section.data[start + there : start + stride] for start in range(0, last, stride))
    if any(rest.strip(b"\0") for rest in rests) or any(r.offset % stride >= there for r in relocations):
        raise UnknownError(f"section {section.name}: the entry at {last:#x} ends behind the section", where=obj.name)


def companion(obj: ObjectFile, entry: Entry) -> tuple[Section, SectionOffset, SectionOffset]:
    """Where [start, end) of a section lies what goes with an entry (.orc_unwind beside .orc_unwind_ip).

    Raises UnknownError where the paired table is not there or has another number of rows.
    """
    first = obj.sections[entry.section]
    section = obj.by_name.get(entry.table.paired)
    count = first.size // (entry.end - entry.start)
    if section is None or section.size % count:
        raise UnknownError(f"section {entry.table.paired} does not go with {first.name}", where=obj.name)
    stride = section.size // count
    start = SectionOffset(entry.index * stride)
    return section, start, start + stride


def table_stride(obj: ObjectFile, section: Section, row: TableRow, relocations: Sequence[Relocation]) -> int:
    """Size of one entry in bytes, from sh_entsize or from how the relocations repeat."""
    if section.entsize and section.size % section.entsize == 0:
        return section.entsize
    if row.most == 1 and (plain := _plain_stride(obj, section, relocations)):
        return plain
    shape = [(r.offset, r.type, _target_class(obj, r)) for r in relocations]
    if len(shape) < row.relocs:
        raise UnknownError(f"section {section.name} has no relocations that name its owners", where=obj.name)
    origin = shape[0][0]
    strides = {shape[k][0] - origin for k in range(row.relocs, min(len(shape), row.most + 1))} - {0}
    fitting = sorted(stride for stride in strides if _repeats(shape, stride, section.size, row))
    if not fitting and len(shape) <= row.most:
        return section.size
    # What repeats after one entry also does after two.
    if not fitting or any(stride % fitting[0] for stride in fitting):
        raise UnknownError(f"section {section.name}: the size of its entries cannot be told", where=obj.name)
    return fitting[0]


def _plain_stride(obj: ObjectFile, section: Section, relocations: Sequence[Relocation]) -> int:
    """The same of a table in which each entry has one relocation, all of them alike and to code; 0 for any other."""
    if len(relocations) < 2:
        return 0
    first, second = relocations[0].offset, relocations[1].offset
    stride = second - first
    end = len(relocations) * stride
    if not first < stride or section.size != end or [r.offset for r in relocations] != list(range(first, end, stride)):
        return 0
    targets = {r.symbol: r for r in relocations}.values()
    alike = len({r.type for r in relocations}) == 1
    return stride if alike and all(_target_class(obj, r) == "code" for r in targets) else 0


def _target_class(obj: ObjectFile, relocation: Relocation) -> str:
    """What a relocation leads to; empty where only another object tells."""
    symbol = obj.symbols[relocation.symbol]
    if not symbol.is_defined:
        return ""
    return "code" if obj.sections[symbol.shndx].is_exec else "data"


def _repeats(shape: Sequence[tuple[SectionOffset, int, str]], stride: int, size: int, row: TableRow) -> bool:
    """Whether runs of `stride` bytes all start with a site, in code, and agree in what lies where.

    A later field may be without a relocation in some of them (an alternative
    with an empty replacement).
    """
    if -(-size // stride) * row.relocs > len(shape):
        return False
    pattern: dict[int, tuple[int, str]] = {}
    counts = [0] * -(-size // stride)
    origin = shape[0][0]
    for offset, kind, target in shape:
        place = offset % stride
        known_kind, known = pattern.get(place, (kind, target))
        if kind != known_kind or (known and target and known != target):
            return False
        pattern[place] = (kind, known or target)
        entry = offset // stride
        if not counts[entry] and (place != origin or target != "code"):
            return False
        counts[entry] += 1
    return row.relocs <= min(counts) and max(counts) <= row.most

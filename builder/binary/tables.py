"""Special tables: sections whose entries belong to the code they point at.

A row says how entries of one table are found, not how large they are: the
stride comes from sh_entsize or from how the relocations repeat, since kernels
change the sizes (struct alt_instr 12 -> 14 bytes in 6.3, struct orc_entry with
a header section in 6.4). Where that says two things or nothing, it is an error,
and so is a form of which more than its size must be known. To add a table, add
a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

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
    entry; more of them are not the compiler's and the first one counts. `length` is
    the struct and the member of it that holds how many bytes of code an entry has
    patched, where that is not one instruction. `lengths` maps each known size of an
    entry to the offset of a byte in it: where that is zero, the relocations behind the
    first one lead to nothing.
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
    length: tuple[str, str] | None = None


# replacementlen of struct alt_instr (arch/x86/include/asm/alternative.h): after s32 instr_offset, s32 repl_offset,
# u16 cpuid, u8 instrlen; v4.1 to v5.12 have u8 padlen behind it, v6.3 and later u16 flags before instrlen.
_REPLACEMENT: Final = ((12, 11), (13, 11), (14, 13))

TABLES: Final = (
    TableRow("__bug_table", 1, 3, lines=True),
    TableRow("__ex_table", 2, 3),
    TableRow("__jump_table", 3, 3, late=True, unique=True),
    TableRow(".static_call_sites", 2, 2, late=True, unique=True),
    # struct alt_instr: u8 instrlen, at 10 up to 6.2, at 12 from 6.3 on (arch/x86/include/asm/alternative.h)
    TableRow(".altinstructions", 1, 2, late=True, lengths=_REPLACEMENT, length=("alt_instr", "instrlen")),
    TableRow(".parainstructions", 1, 1, late=True),
    # the prefix is patched, and no operand
    TableRow(".smp_locks", 1, 1, derived=True, late=True, if_bound_late="kept"),
    TableRow(".retpoline_sites", 1, 1, derived=True, late=True),
    TableRow(".return_sites", 1, 1, derived=True, late=True),
    # calls are only counted (call depth tracking), and this one's target is not known yet
    TableRow(".call_sites", 1, 1, derived=True, late=True, if_bound_late="left out"),
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

# Never travel: read by the build of the kernel, not by the kernel.
DISCARDED: Final = (
    ".discard.", ".comment", ".note.", ".debug_", ".modinfo", "__versions", ".eh_frame", ".llvm_addrsig", ".BTF",
    "___ksymtab", "___kcrctab", "__ksymtab", "__kcrctab", ".export_symbol", ".init", ".exit", ".initcall",
    "_error_injection_whitelist", "__param", "__kentry", "_ftrace_", "__syscalls_metadata", "__tracepoints",
    "__bpf_raw_tp_map", "_kprobe_blacklist", ".printk_index", "__dyndbg", "__verbose", "__ftrace", ".kpatch.",
    ".klp.", ".gnu.linkonce.this_module", ".cpuidle", ".stack_sizes", "__ro_after_init", ".rela", ".static_call_tramp",
)  # fmt: skip


class Entry(NamedTuple):
    """One entry: its bytes' place in the table and its relocations (offsets are the section's)."""

    table: TableRow
    section: int
    index: int  # type: ignore[assignment]  # the entry's number, not tuple.index
    start: int
    end: int
    relocations: tuple[Relocation, ...]

    @property
    def site(self) -> Relocation:
        """The relocation that names the owner."""
        return self.relocations[0]

    @property
    def length(self) -> int | None:
        """Where the byte lies that says how much there is of what the entry leads to; None in most tables."""
        return next((self.start + at for size, at in self.table.lengths if size == self.end - self.start), None)


def entries(obj: ObjectFile, section: Section, row: TableRow) -> tuple[Entry, ...]:
    """All entries of a table, in order.

    Raises UnknownError when the stride cannot be told, or an entry has another
    number of relocations or another size than any that is known: guessing would
    give an entry to the wrong function.
    """
    relocations = sorted(obj.relocations_of(section.index))
    if not section.size:
        return ()
    stride = table_stride(obj, section, row, relocations)
    if row.lengths and stride not in dict(row.lengths):
        known = " or ".join(str(size) for size, _ in row.lengths)
        raise UnknownError(f"section {section.name}: entries of {stride} bytes, not {known}", where=obj.name)
    out: list[Entry] = []
    position, count = 0, len(relocations)
    for index, start in enumerate(range(0, section.size, stride)):
        end = min(start + stride, section.size)
        first = position
        while position < count and relocations[position].offset < end:
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


def companion(obj: ObjectFile, entry: Entry) -> tuple[Section, int, int]:
    """Where [start, end) of a section lies what goes with an entry (.orc_unwind beside .orc_unwind_ip).

    Raises UnknownError where the paired table is not there or has another number of rows.
    """
    first = obj.sections[entry.section]
    section = obj.by_name.get(entry.table.paired)
    count = first.size // (entry.end - entry.start)
    if section is None or section.size % count:
        raise UnknownError(f"section {entry.table.paired} does not go with {first.name}", where=obj.name)
    stride = section.size // count
    return section, entry.index * stride, (entry.index + 1) * stride


def table_stride(obj: ObjectFile, section: Section, row: TableRow, relocations: Sequence[Relocation]) -> int:
    """Size of one entry in bytes, from sh_entsize or from how the relocations repeat."""
    if section.entsize and section.size % section.entsize == 0:
        return section.entsize
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


def _target_class(obj: ObjectFile, relocation: Relocation) -> str:
    """What a relocation leads to; empty where only another object tells."""
    symbol = obj.symbols[relocation.symbol]
    if not symbol.is_defined:
        return ""
    return "code" if obj.sections[symbol.shndx].is_exec else "data"


def _repeats(shape: list[tuple[int, int, str]], stride: int, size: int, row: TableRow) -> bool:
    """Whether runs of `stride` bytes all start with a site, in code, and agree in what lies where.

    A later field may be without a relocation in some of them (an alternative
    with an empty replacement).
    """
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

"""Who holds the address of a function: everything in an image or a module's file that leads to its entry.

Nothing is taken from names: each field of four bytes that leads there by its
distance or holds the address itself is looked at, and in code the instruction
around it says whether it is a call or jump or takes the address. Of an image
that can be moved, the list of its absolute fields (arch/x86/tools/relocs.c)
tells these from numbers that only look alike.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary

from builder import arch as architectures
from builder.arch import Architecture, Instruction
from builder.binary import Address, ObjectFile, Relocation, Section, Symbol, elf, tables
from builder.binary.kernel import Kernel
from builder.compare import naming
from builder.compose.running import RunningImage, RunningModule
from builder.errors import KernelError

LeadsBy = Literal["branch", "address", "data", "export"]


class Holder(NamedTuple):
    """One field that leads to the function at the place `entry`.

    `name` is the symbol that it stands in, which begins at `start`: a function for a direct call or jump
    (`branch`) and for code that takes the address, else a datum; `export` is the list of exports. `section` is the
    name of the section, by which code for start and end is told.
    """

    object: str
    entry: int
    way: LeadsBy
    name: str
    start: int
    place: int
    section: str


# What names places in code and is neither called nor compared: the tables of patch sites, lists of functions for
# the kernel's own use, debug information.
_PLACES: Final = frozenset(
    {*tables.BY_NAME, *(row.paired for row in tables.TABLES), ".orc_lookup", ".orc_header", ".notes", ".BTF"}
) | {".BTF_ids", "_kprobe_blacklist", "__ksymtab_strings", ".init.scratch", ".modinfo", "__versions"}
# Where an image has no section for such a table, its start has a symbol (include/asm-generic/vmlinux.lds.h, v6.1);
# the symbol table itself names each function by its distance in newer kernels (scripts/kallsyms.c, v7.2).
_PLACES_FROM: Final = re.compile(
    r"kallsyms_\w+|_kbl_addr_\w+|"
    r"__start_(kprobe_blacklist|mcount_loc|___?jump_table|static_call_sites|___?bug_table|___?ex_table)"
)
BOOT: Final = (".init.text", ".head.text", ".altinstr_aux")
"""Code that runs at start: of an image never again, of a module whenever that is loaded."""
NEVER: Final = (".exit.text",)
"""Code of an image that never runs."""
OF_ENTRIES: Final = frozenset({".altinstr_replacement"})
"""Code that belongs to entries of tables, which the kernel copies to where it runs."""


def in_image(image: RunningImage, entries: Collection[int]) -> list[Holder]:
    """Everything in vmlinux that leads to one of `entries` (addresses); an image is looked through once for each."""
    known = _KNOWN.setdefault(image, {})
    new = {entry: list[Holder]() for entry in entries if entry not in known}
    for holder in _ImageScan(image.kernel, new).holders() if new else ():
        new[holder.entry].append(holder)
    known |= new
    return [holder for entry in entries for holder in known[entry]]


_KNOWN: Final[WeakKeyDictionary[RunningImage, dict[int, list[Holder]]]] = WeakKeyDictionary()


def in_module(module: RunningModule, entries: Collection[int], names: Collection[str] = ()) -> list[Holder]:
    """Everything in a module that leads to one of `entries` (its own places), or to a symbol that it takes from
    elsewhere: the entry is then -1 less the place in `names`."""
    return list(_ModuleScan(module, entries, list(names)).holders())


class _ImageScan:
    def __init__(self, kernel: Kernel, entries: Collection[int]) -> None:
        self.kernel = kernel
        self.entries = sorted(set(entries))
        self.arch = architectures.by_machine(elf.EM_X86_64, where=str(kernel.path))
        self._low = {entry & _LOW: entry for entry in self.entries}

    def holders(self) -> Iterator[Holder]:
        image = self.kernel.image
        absolute = _absolute(self.kernel)
        sections = [s for s in image.sections.values() if s.in_file and s.flags & elf.SHF_ALLOC and s.size]
        for section in sections:
            if section.name in _PLACES or section.name.startswith("__kcrctab"):
                continue
            code = self.kernel.read(section.address, section.size)
            is_code = bool(section.flags & elf.SHF_EXECINSTR)
            for at, entry in leading(code, section.address, self.entries, every=is_code):
                yield from self._judge(section.address + at, entry, section.name, is_code, relative=True)
            for at, entry in beside(code, section.address, self.entries) if is_code else ():
                yield from self._judge(section.address + at, entry, section.name, is_code, relative=True)
            for at, entry in holding(code, self._low):
                place = section.address + at
                if absolute is None or place in absolute:
                    yield from self._judge(place, entry, section.name, is_code, relative=False)
        if not sections:
            raise KernelError("has no section headers, so what leads to a function cannot be told", where=image.where)

    def _judge(self, place: int, entry: int, section: str, is_code: bool, *, relative: bool) -> Iterator[Holder]:
        symbol = self.kernel.nearest(Address(place))
        name, start = (symbol.name, symbol.address) if symbol is not None else ("", place)
        if _PLACES_FROM.fullmatch(name):
            return
        way: LeadsBy = "data"
        if section.startswith("__ksymtab"):
            way = "export"
        elif is_code:
            size = self.kernel.size_of(symbol) if symbol is not None else 0
            code = self.kernel.read(Address(start), min(max(size, place + 16 - start), _LONGEST))
            found = _way(self.arch, code, place - start, entry - start if relative else None)
            if found is None:
                return
            way = found
        yield Holder("vmlinux", entry, way, name, start, place, section)


@lru_cache(maxsize=2)
def _absolute(kernel: Kernel) -> frozenset[int] | None:
    """Every field of an image that holds an address; None where the image does not list them."""
    try:
        found = kernel.kaslr_relocations()
    except KernelError:
        return None
    return frozenset((*found.add64, *found.add32))


_LONGEST: Final = 1 << 20
"""Bytes of code that are decoded at most to understand one field: more than any function has."""


def _instruction(arch: Architecture, code: bytes, field: int) -> Instruction | None:
    """The instruction that has a field of its own at an offset of `code`."""
    insn = next((row for row in arch.decode(code, 0) if row.offset <= field < row.end), None)
    return None if insn is None or field == insn.offset or insn.is_nop else insn


def _way(arch: Architecture, code: bytes, field: int, entry: int | None) -> LeadsBy | None:
    """What the instruction around a field does: leads to the offset `entry` by a distance, or holds the address
    (`entry` is None); None where it does neither, and the bytes only look alike."""
    insn = _instruction(arch, code, field)
    if insn is None or entry is None:
        return "address" if insn is not None else None
    place = arch.relative_place(code[insn.offset : insn.end], insn.offset)
    if place is None or (place - entry) & 0xFFFFFFFF:  # before the first byte they are large numbers
        return None
    return "branch" if insn.target is not None else "address"


def leading(code: bytes, address: int, entries: Sequence[int], *, every: bool) -> Iterator[tuple[int, int]]:
    """(offset, entry) of each field of four bytes that leads to an entry as its end plus its value.

    With `every` offset, else only at those that four divides.
    """
    # Here, for it is slow to import and only this needs it.
    import numpy

    wanted = {entry & _LOW: entry for entry in entries}
    for shift in range(4 if every else 1):
        words = _words(code, shift)
        first = (address + shift + (4 if every else 0)) & _LOW
        # Sums of 32 bits, which wrap as those of the CPU do.
        low = words + numpy.arange(len(words), dtype=numpy.uint32) * numpy.uint32(4) + numpy.uint32(first)
        for at, value in _among(low, wanted):
            yield at * 4 + shift, wanted[value]


def beside(code: bytes, address: int, entries: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The same for fields of one byte, of short jumps."""
    for entry in entries:
        at = entry - address
        for field in range(max(at - 128, 0), min(at + 128, len(code))):
            if field + 1 + (code[field] ^ 0x80) - 0x80 == at:
                yield field, entry


def holding(code: bytes, entries: dict[int, int]) -> Iterator[tuple[int, int]]:
    """(offset, entry) of each field of four bytes that holds the low half of an entry; `entries` maps that to it."""
    for shift in range(4):
        for at, low in _among(_words(code, shift), entries):
            yield at * 4 + shift, entries[low]


_LOW: Final = 0xFFFFFFFF
_FEW: Final = 4


def _among(words: Any, wanted: Collection[int]) -> list[tuple[int, int]]:
    """(index, word) of all words that are wanted; many are looked for at once, by their low halves."""
    import numpy

    if len(wanted) <= _FEW:
        found = [(int(at), word) for word in wanted for at in numpy.flatnonzero(words == word)]
        return sorted(found)
    marked = numpy.zeros(1 << 16, dtype=bool)
    marked[[word & 0xFFFF for word in wanted]] = True
    places = numpy.flatnonzero(marked[words & numpy.uint32(0xFFFF)])
    rows = zip(places.tolist(), words[places].tolist(), strict=True)
    return [(at, word) for at, word in rows if word in wanted]


def _words(code: bytes, shift: int) -> Any:
    import numpy

    return numpy.frombuffer(code, dtype="<u4", count=max(len(code) - shift, 0) // 4, offset=shift)


class _ModuleScan:
    def __init__(self, module: RunningModule, entries: Collection[int], names: Sequence[str]) -> None:
        self.module = module
        self.obj: ObjectFile = module.obj
        self.arch = architectures.by_machine(self.obj.machine, where=self.obj.name)
        self.entries = set(entries)
        self.names = {name: -1 - at for at, name in enumerate(names)}

    def holders(self) -> Iterator[Holder]:
        for section in self.obj.sections:
            if not section.is_alloc or section.type == elf.SHT_RELA or section.name in _PLACES:
                continue
            if section.name.startswith(("__kcrctab", "___kcrctab")):
                continue
            rows = self.obj.relocations_of(section.index)
            for r in rows:
                entry = self._entry(section, r)
                if entry is not None:
                    yield from self._judge(section, r.offset, entry, relocated=True)
            if section.is_exec and self.entries:
                yield from self._unrelocated(section, {r.offset for r in rows})

    def _is_relative(self, r: Relocation) -> bool:
        row = self.arch.relocations.get(r.type)
        return row is not None and row.pc_relative

    def _entry(self, section: Section, r: Relocation) -> int | None:
        """Which of the wanted things a relocation leads to the start of, if any."""
        symbol = self.obj.symbols[r.symbol]
        # Behind the field of a call or jump, and of an address that is loaded, stands nothing more.
        addend = r.addend + (4 if section.is_exec and self._is_relative(r) else 0)
        if not symbol.is_defined:
            return self.names.get(symbol.name) if addend == 0 else None
        place = self.module.place(symbol) + addend
        return place if place in self.entries else None

    def _unrelocated(self, section: Section, relocated: set[int]) -> Iterator[Holder]:
        """Calls and jumps within a section that the assembler has resolved itself."""
        base = self.module.place_in(section.index)
        near = [entry for entry in self.entries if 0 <= entry - base < section.size]
        if not near:
            return
        for at, entry in leading(section.data, base, near, every=True):
            if not relocated.intersection(range(at - 3, at + 4)):
                yield from self._judge(section, at, entry, relocated=False)
        for at, entry in beside(section.data, base, near):
            if not relocated.intersection(range(at - 3, at + 1)):
                yield from self._judge(section, at, entry, relocated=False)

    def _judge(self, section: Section, offset: int, entry: int, *, relocated: bool) -> Iterator[Holder]:
        symbol = self._around(section, offset)
        start = symbol.value if symbol is not None else 0
        base = self.module.place_in(section.index)
        way: LeadsBy = "data"
        if section.name.startswith(("__ksymtab", "___ksymtab")):
            way = "export"
        elif section.is_exec:
            end = max(offset + 16, start + (symbol.size if symbol is not None else 0))
            code = section.data[start:end]
            if relocated:  # the field is empty, and which instruction has it tells what it is for
                insn = _instruction(self.arch, code, offset - start)
                way = "branch" if insn is not None and insn.target is not None else "address"
            elif (found := _way(self.arch, code, offset - start, entry - base - start)) is None:
                return
            else:
                way = found
        name = symbol.name if symbol is not None else ""
        yield Holder(self.module.name, entry, way, name, base + start, base + offset, section.name)

    def _around(self, section: Section, offset: int) -> Symbol | None:
        """The last symbol that begins at or before an offset, a function or datum before labels and markers."""
        rows = [s for s in self.obj.symbols_in.get(section.index, ()) if s.value <= offset and s.name]
        plain = [s for s in rows if s.type in (elf.STT_FUNC, elf.STT_OBJECT) and not naming.is_marker(s.name)]
        return next(reversed(plain or rows), None)

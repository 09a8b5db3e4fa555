"""What the manifest of a module says, told from its parts and from what the linker made of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from builder.arch import Architecture
from builder.binary import ObjectFile, elf, klp
from builder.binary.manifest import CarriedFunction, Manifest, TargetKernel, WrittenBinding
from builder.compose.bundle import Bundle
from builder.emit.fragments import Fragment
from builder.emit.part import PairPart


def manifest(bundle: Bundle, parts: Sequence[PairPart], linked: ObjectFile, arch: Architecture) -> Manifest:
    """The manifest; `linked` supplies the bindings as they were written."""
    kernel = bundle.kernel
    late = _late(linked, arch)
    accepted = (r for part in parts for r in part.accepted)
    return Manifest(
        name=bundle.name,
        kernel=TargetKernel(kernel.release, kernel.sha256, kernel.vermagic.strip()),
        replace=bundle.replace,
        on=bundle.on,
        objects=tuple(sorted({part.owner for part in parts})),
        functions=tuple(_with_late(row, late) for part in parts for row in part.carried),
        bindings=tuple(_bindings(linked)),
        special_entries=_entries(fragment for part in parts for fragment in part.fragments),
        accepted=tuple(dict.fromkeys((*accepted, *bundle.accepted))),
        warnings=tuple(dict.fromkeys(w for part in parts for w in part.warnings)),
        sets=tuple(word for part in parts for word in part.words),
        compiler=bundle.compiler,
    )


def _with_late(row: CarriedFunction, late: Mapping[str, Sequence[int]]) -> CarriedFunction:
    return replace(row, late=tuple(late[row.symbol])) if row.symbol in late else row


def _late(linked: ObjectFile, arch: Architecture) -> dict[str, list[int]]:
    """Symbol of a function -> offsets where no kprobe may stand before the patched object's relocations are written.

    A kprobe runs a copy of its instruction, taken when it is planted; a module's
    notifier plants it before klp_enable_patch() has written what names another module.
    """
    fields: dict[int, list[int]] = {}
    for index, relocations in linked.relocations.items():
        section = linked.sections[index]
        if section.flags & elf.SHF_RELA_LIVEPATCH and klp.section_object(section.name) != klp.VMLINUX:
            fields.setdefault(section.info, []).extend(r.offset for r in relocations)
    for offsets in fields.values():
        offsets.sort()
    out: dict[str, list[int]] = {}
    for symbol in linked.symbols:
        if not symbol.is_function or symbol.shndx not in fields:
            continue
        offsets, start, last = fields[symbol.shndx], symbol.value, symbol.value + symbol.size
        rows = [at - start for at in offsets[bisect_left(offsets, start) : bisect_left(offsets, last)]]
        if not rows:
            continue
        insns = arch.decode(linked.sections[symbol.shndx].data[start:last], 0)
        ends = [insn.end for insn in insns]
        for insn in insns:
            at = bisect_left(ends, insn.offset + arch.probe_copy)
            end = ends[min(at, len(ends) - 1)]
            if any(insn.offset <= row < end for row in rows):
                out.setdefault(symbol.name, []).append(insn.offset)
    return {name: sorted(set(found)) for name, found in out.items()}


def _bindings(linked: ObjectFile) -> Iterator[WrittenBinding]:
    """Every reference to a symbol that livepatch resolves: where it is written and what it is resolved to."""
    rows = []
    for index, relocations in linked.relocations.items():
        section = linked.sections[index]
        late = bool(section.flags & elf.SHF_RELA_LIVEPATCH)
        # An ordinary relocation may use what one for vmlinux has resolved (builder/emit/link.py).
        patched = klp.section_object(section.name) if late else klp.VMLINUX
        for r in relocations:
            symbol = linked.symbols[r.symbol]
            if late or symbol.shndx == elf.LIVEPATCH:
                rows.append((section.info, patched, r.offset, r, klp.parse_symbol(symbol.name)))
    for target, patched, offset, r, bound in sorted(rows, key=lambda row: row[:3]):
        yield WrittenBinding(linked.sections[target].name, offset, r.type, patched, *bound, r.addend)


def _entries(fragments: Iterable[Fragment]) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for fragment in fragments:
        if fragment.entry_of:
            row = out.setdefault(fragment.entry_of, {})
            row[fragment.owner] = row.get(fragment.owner, 0) + 1
    return {table: dict(sorted(row.items())) for table, row in sorted(out.items())}

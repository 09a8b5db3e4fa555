"""What the manifest of a module says, told from the bundle and from what the linker made of it."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from builder.arch import Architecture
from builder.binary import ObjectFile, elf, klp
from builder.binary.manifest import (
    CarriedFunction,
    CarriedPart,
    Manifest,
    MapRow,
    Original,
    SetWord,
    TargetKernel,
    WrittenBinding,
)
from builder.compare import Atom
from builder.compare.instruction_map import FunctionMap, MappedRow
from builder.compare.kept_maps import kept_maps
from builder.compose.bound import Bound
from builder.compose.bundle import Bundle
from builder.emit.fragments import Fragment


def manifest(bundle: Bundle, linked: ObjectFile, fragments: Sequence[Fragment]) -> Manifest:
    """The manifest; `linked` supplies the bindings as they were written."""
    kernel = bundle.kernel
    late = _late(linked, bundle.pairs[0].diff.comparison.new.arch)
    accepted = (r for bound in bundle.pairs for r in bound.diff.judged.accepted)
    return Manifest(
        name=bundle.name,
        kernel=TargetKernel(kernel.release, kernel.sha256, kernel.vermagic.strip()),
        replace=bundle.replace,
        on=bundle.on,
        objects=tuple(sorted({bound.owner.name for bound in bundle.pairs})),
        functions=tuple(row for bound in bundle.pairs for row in _functions(bundle, bound, late)),
        bindings=tuple(_bindings(linked)),
        special_entries=_entries(fragments),
        accepted=tuple(dict.fromkeys((*accepted, *bundle.accepted))),
        warnings=tuple(dict.fromkeys(bundle.warnings)),
        sets=tuple(
            SetWord(bound.owner.name, word.atom.name, word.offset, word.width)
            for bound in bundle.pairs
            for word in bound.sets
        ),
        compiler=bundle.compiler,
    )


def _functions(bundle: Bundle, bound: Bound, late: Mapping[str, Sequence[int]]) -> Iterator[CarriedFunction]:
    selection = bound.diff.selection
    twins = bound.diff.comparison.correlation.twins
    mapped = [atom for atom in selection.redirected if twins.get(atom) in bound.matches]
    maps = kept_maps(bound.diff.comparison, mapped)
    for atom, role in selection.functions.items():
        old, original = twins.get(atom), None
        if old is not None:
            original = Original(old.end - old.entry, _hash(bound, old, new=False))
            if (match := bound.matches.get(old)) is not None:
                original = replace(original, name=match.name, sympos=match.sympos)
        row = CarriedFunction(
            name=atom.name,
            symbol=bundle.symbol(atom),
            object=bound.owner.name,
            role=role.value,
            new_size=atom.end - atom.entry,
            new_hash=_hash(bound, atom, new=True),
            old=original,
            redirected=atom in selection.redirected,
            late=tuple(late.get(bundle.symbol(atom), ())),
        )
        yield _mapped(row, bundle, bound, atom, maps[atom]) if atom in maps else row


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


def _mapped(row: CarriedFunction, bundle: Bundle, bound: Bound, atom: Atom, found: FunctionMap) -> CarriedFunction:
    """With the map from the version that it takes the place of, and those of that version's `.cold` parts."""
    comparison = bound.diff.comparison
    old = comparison.correlation.twins[atom]
    moved = _moved(bound, atom)
    pairs, points = (_by_part(bundle, atom, rows, moved) for rows in (found.pairs, found.points))
    parts = tuple(
        CarriedPart(
            match.name, match.sympos, part.end - part.entry, pairs.get(part, ()), points.get(part, ()), match.base
        )
        for part in comparison.old_children.get(old, ())
        if (match := bound.matches.get(part)) is not None
    )
    whole = bound.matches[old]
    own = replace(row, map=pairs.get(old, ()), points=points.get(old, ()))
    return replace(own, since=whole.since, base=whole.base, parts=parts)


def _by_part(
    bundle: Bundle, atom: Atom, rows: Iterable[MappedRow], moved: Mapping[Atom, frozenset[int]]
) -> dict[Atom, tuple[MapRow, ...]]:
    """Rows by the part of the old version that they are about; those of a function itself name no new part."""
    out: dict[Atom, tuple[MapRow, ...]] = {}
    for row in rows:
        if row.new_part.entry + row.new_offset in moved[row.new_part]:
            continue
        part = "" if row.new_part is atom else bundle.symbol(row.new_part)
        cells = MapRow(row.old_offset, row.new_offset, row.confidence, row.same, part)
        out[row.old_part] = (*out.get(row.old_part, ()), cells)
    return out


def _moved(bound: Bound, atom: Atom) -> Mapping[Atom, frozenset[int]]:
    """By part of a function, offsets in its section that no probe may stand at: a thunk has what was there."""
    tests = bound.thunks.tests if bound.thunks is not None else {}
    parts = (atom, *bound.diff.comparison.children.get(atom, ()))
    rooms = {part: [room[1:] for test in tests.get(part, ()) for room in test.rooms] for part in parts}
    return {part: frozenset(place for room in rows for place in room) for part, rows in rooms.items()}


def _hash(bound: Bound, atom: Atom, *, new: bool) -> str:
    view = bound.diff.comparison.new if new else bound.diff.comparison.old
    return hashlib.sha256(view.masked(atom.section, atom.entry, atom.end)).hexdigest()


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


def _entries(fragments: Sequence[Fragment]) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for fragment in fragments:
        if fragment.entry_of:
            row = out.setdefault(fragment.entry_of, {})
            row[fragment.owner] = row.get(fragment.owner, 0) + 1
    return {table: dict(sorted(row.items())) for table, row in sorted(out.items())}

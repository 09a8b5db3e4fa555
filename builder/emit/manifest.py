"""The manifest: what the module is and what it is bound to, carried inside it as JSON.

It lies in a section that is not loaded; equal inputs give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from builder.arch import Architecture
from builder.binary import ObjectFile, elf, klp
from builder.compare import Atom
from builder.compare.instruction_map import instruction_map
from builder.compose.bindings import Bound
from builder.compose.bundle import Bundle
from builder.emit.fragments import Fragment

SECTION = ".bespoke.manifest"
FORMAT = 1


def manifest(bundle: Bundle, linked: ObjectFile, fragments: Sequence[Fragment]) -> dict[str, Any]:
    """The document; `linked` supplies the bindings as they were written."""
    kernel = bundle.kernel
    late = _late(linked, bundle.pairs[0].diff.comparison.new.arch)
    return {
        "format": FORMAT,
        "name": bundle.name,
        "kernel": {"release": kernel.release, "sha256": kernel.sha256, "vermagic": kernel.vermagic.strip()},
        "replace": bundle.replace,
        "on": list(bundle.on),
        "objects": sorted({bound.owner.name for bound in bundle.pairs}),
        "functions": [row for bound in bundle.pairs for row in _functions(bound, late)],
        "bindings": _bindings(linked),
        "special_entries": _entries(fragments),
        "accepted": [
            {"code": r.code, "symbol": r.symbol, "message": r.message}
            for bound in bundle.pairs
            for r in (*bound.diff.judged.accepted, *bundle.accepted)
        ],
        "warnings": [
            {"code": r.code, "symbol": r.symbol, "message": r.message} for r in dict.fromkeys(bundle.warnings)
        ],
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """The bytes that are put into the module."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _functions(bound: Bound, late: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    selection = bound.diff.selection
    comparison = bound.diff.comparison
    rows = []
    for atom, role in selection.functions.items():
        old = comparison.correlation.twins.get(atom)
        row: dict[str, Any] = {
            "name": atom.name,
            "object": bound.owner.name,
            "role": role.value,
            "new_size": atom.end - atom.entry,
            "new_hash": _hash(bound, atom, new=True),
        }
        if old is not None:
            row |= {"old_size": old.end - old.entry, "old_hash": _hash(bound, old, new=False)}
            match = bound.matches.get(old)
            if match is not None:
                row |= {"old_name": match.name, "sympos": match.sympos}
        row["redirected"] = atom in selection.redirected
        if atom.name in late:
            row["late"] = list(late[atom.name])
        rows.append(row | _maps(bound, atom))
    return rows


# A kprobe that is optimised copies so many bytes (RELATIVEJUMP_SIZE, arch/x86/include/asm/kprobes.h, v6.1).
_COPIED = 5


def _late(linked: ObjectFile, arch: Architecture) -> dict[str, list[int]]:
    """Function -> offsets where no kprobe may stand before the patched object's relocations are written.

    A kprobe runs a copy of its instruction, taken when it is planted; a module's
    notifier plants it before klp_enable_patch() has written what names another module.
    """
    fields: dict[int, list[int]] = {}
    for index, relocations in linked.relocations.items():
        section = linked.sections[index]
        if section.flags & elf.SHF_RELA_LIVEPATCH and klp.section_object(section.name) != klp.VMLINUX:
            fields.setdefault(section.info, []).extend(r.offset for r in relocations)
    out: dict[str, list[int]] = {}
    for symbol in linked.symbols:
        if not symbol.is_function or symbol.shndx not in fields:
            continue
        code = linked.sections[symbol.shndx].data[symbol.value : symbol.value + symbol.size]
        rows = [at - symbol.value for at in fields[symbol.shndx] if 0 <= at - symbol.value < symbol.size]
        insns = arch.decode(code, 0)
        ends = [insn.end for insn in insns]
        for insn in insns if rows else ():
            at = bisect_left(ends, insn.offset + _COPIED)
            end = ends[min(at, len(ends) - 1)]
            if any(insn.offset <= row < end for row in rows):
                out.setdefault(symbol.name, []).append(insn.offset)
    return {name: sorted(set(found)) for name, found in out.items()}


def _maps(bound: Bound, atom: Atom) -> dict[str, Any]:
    """`map`: [old offset, new offset, confidence of 100, mask of what holds the same, new part if another].

    `parts` are the `.cold` parts of the old function, each with its own. `since` names
    the module whose version, called `base`, the map begins at where that is not the original.
    """
    comparison = bound.diff.comparison
    old = comparison.correlation.twins.get(atom)
    if old is None or old not in bound.matches or atom not in bound.diff.selection.redirected:
        return {}
    maps: dict[Atom, list[list[Any]]] = {old: []}
    for row in instruction_map(comparison, atom):
        cells: list[Any] = [row.old_offset, row.new_offset, row.confidence, row.same]
        maps.setdefault(row.old_part, []).append(cells if row.new_part is atom else [*cells, row.new_part.name])
    parts = [
        {"name": match.name, "sympos": match.sympos, "size": part.end - part.entry, "map": maps.get(part, [])}
        for part in comparison.old_children.get(old, ())
        if (match := bound.matches.get(part)) is not None
    ]
    since = bound.matches[old].since
    found: dict[str, Any] = {"map": maps[old]}
    if since:
        found |= {"since": since, "base": old.name}
    return found | ({"parts": parts} if parts else {})


def _hash(bound: Bound, atom: Atom, *, new: bool) -> str:
    view = bound.diff.comparison.new if new else bound.diff.comparison.old
    code = bytearray(atom.section.data[atom.entry : atom.end])
    for r in view.relocations(atom):
        row = view.arch.relocations.get(r.type)
        at = r.offset - atom.entry
        if row is not None and row.size:
            code[at : at + row.size] = bytes(row.size)
    return hashlib.sha256(code[: atom.end - atom.entry]).hexdigest()


def _bindings(linked: ObjectFile) -> list[dict[str, Any]]:
    """Every livepatch relocation: where it is written and what it is resolved to."""
    rows = []
    for index, relocations in linked.relocations.items():
        section = linked.sections[index]
        if not section.flags & elf.SHF_RELA_LIVEPATCH:
            continue
        target = linked.sections[section.info]
        patched = klp.section_object(section.name)
        for r in relocations:
            symbol = klp.parse_symbol(linked.symbols[r.symbol].name)
            rows.append(
                {
                    "section": target.name,
                    "offset": r.offset,
                    "type": r.type,
                    "patched": patched,
                    "object": symbol.object,
                    "symbol": symbol.name,
                    "sympos": symbol.sympos,
                    "addend": r.addend,
                }
            )
    return rows


def _entries(fragments: Sequence[Fragment]) -> dict[str, dict[str, int]]:
    out: dict[str, dict[str, int]] = {}
    for fragment in fragments:
        if fragment.entry_of:
            row = out.setdefault(fragment.entry_of, {})
            row[fragment.owner] = row.get(fragment.owner, 0) + 1
    return {table: dict(sorted(row.items())) for table, row in sorted(out.items())}

"""The manifest: what the module is and what it is bound to, carried inside it as JSON.

It lies in a section that is not loaded; equal inputs give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from builder.binary import ObjectFile, elf
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
    return {
        "format": FORMAT,
        "name": bundle.name,
        "kernel": {"release": kernel.release, "sha256": kernel.sha256, "vermagic": kernel.vermagic.strip()},
        "replace": bundle.replace,
        "on": list(bundle.on),
        "objects": sorted({bound.owner.name for bound in bundle.pairs}),
        "functions": [row for bound in bundle.pairs for row in _functions(bound)],
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


def _functions(bound: Bound) -> list[dict[str, Any]]:
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
        rows.append(row | _maps(bound, atom))
    return rows


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
        patched = section.name.removeprefix(".klp.rela.").removesuffix("." + target.name)
        for r in relocations:
            name, _, sympos = linked.symbols[r.symbol].name.removeprefix(".klp.sym.").rpartition(",")
            exporter, _, symbol = name.partition(".")
            rows.append(
                {
                    "section": target.name,
                    "offset": r.offset,
                    "type": r.type,
                    "patched": patched,
                    "object": exporter,
                    "symbol": symbol,
                    "sympos": int(sympos),
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

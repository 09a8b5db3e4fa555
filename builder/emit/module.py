"""Emission: a bundle in, the bytes of a loadable module out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.arch import Architecture, by_machine
from builder.binary import loaded_note, write_object
from builder.binary.manifest import SECTION, Manifest
from builder.compose.bundle import Bundle
from builder.compose.macros import MODULE_EXIT
from builder.emit import glue, link, readback
from builder.emit.fragments import Key
from builder.emit.manifest import manifest
from builder.emit.part import PairPart, part_of
from builder.errors import KernelError


@dataclass(frozen=True)
class Module:
    """An emitted module: its name, its bytes and the manifest that is also inside."""

    name: str
    content: bytes
    manifest: Manifest


def parts_of(bundle: Bundle) -> list[PairPart]:
    """What each of its pairs brings."""
    pairs = enumerate(bundle.pairs)
    return [part_of(bundle, n, by_machine(b.diff.comparison.new.obj.machine, where=bundle.name)) for n, b in pairs]


def emit(bundle: Bundle, parts: Sequence[PairPart]) -> Module:
    """Emit the module of these parts, in their order. The same ones give the same bytes.

    Raises ToolError without GNU `as`, KernelError for a kernel that lacks what
    every livepatch needs.
    """
    kernel = bundle.kernel
    kernel.require_livepatch()
    arch = by_machine(parts[0].machine, where=bundle.name)
    pieces = [fragment for part in parts for fragment in part.fragments]
    features = kernel.features
    linker = link.Linker(arch, bundle.name, bind_once=features.relocs_at_load and not features.finds_by_name)
    linker.add(pieces)
    # From here on every fragment has its place.
    objects, symbols = _objects(parts)
    used = link.imports(pieces)
    needed = {n: b.crc for n, b in used.items()} | {n: _crc(bundle, n) for n in _glue_imports(bundle, parts, arch)}
    versions = sorted((n, c) for n, c in needed.items() if c is not None)
    namespaces = sorted({b.namespace for b in used.values() if b.namespace})
    said = glue.GlueParts(
        bundle.name,
        objects,
        versions=versions if features.modversions else (),
        namespaces=namespaces,
        replace=bundle.replace,
        states=sum(part.states for part in parts),
    )
    linker.add_glue(glue.assemble(kernel, arch.glue, said), symbols)
    linker.resolve(pieces)
    bare = linker.object({}, {})
    document = manifest(bundle, parts, bare, arch)
    written = document.to_bytes()
    meant = linker.object({SECTION: written}, {loaded_note.SECTION: loaded_note.to_note(written)})
    content = write_object(meant)
    readback.verify(content, meant)
    return Module(bundle.name, content, document)


def _glue_imports(bundle: Bundle, parts: Sequence[PairPart], arch: Architecture) -> list[str]:
    """Symbols that the glue itself takes from the kernel."""
    features = bundle.kernel.features
    exits = glue.exit_imports(bundle.kernel) if any(part.leaving is not None for part in parts) else ()
    return [*glue.IMPORTS, *exits, *(name for feature, name in arch.glue.imports if features.has(feature))]


def _crc(bundle: Bundle, name: str) -> int | None:
    found = bundle.kernel.export(name)
    if found is None:
        if name == "module_layout" and not bundle.kernel.features.modversions:
            return None
        raise KernelError(f"the kernel does not export {name}", where=bundle.kernel.path)
    return found.crc


def _objects(parts: Sequence[PairPart]) -> tuple[list[glue.GlueObject], dict[str, Key]]:
    """klp_object rows by owner, vmlinux first, and the keys of the symbols they use."""
    symbols: dict[str, Key] = {}

    def symbol(key: Key) -> str:
        name = f"bespoke_new_{len(symbols)}"
        symbols[name] = key
        return name

    rows = []
    for owner in sorted({part.owner for part in parts}, key=lambda n: (n != "vmlinux", n)):
        functions, callbacks, at_exit, sets, leaving = [], {}, [], [], ""
        for part in (part for part in parts if part.owner == owner):
            if part.sets is not None:
                sets.append(glue.GlueSets(symbol(part.sets), len(part.words)))
            functions += [glue.GlueFunction(name, sympos, symbol(key)) for name, sympos, key in part.redirected]
            if part.leaving is not None:
                leaving = symbol(part.leaving)
            for kind, key in part.callbacks:
                if kind == MODULE_EXIT:
                    at_exit.append(symbol(key))
                else:
                    callbacks[kind] = symbol(key)
        rows.append(
            glue.GlueObject(None if owner == "vmlinux" else owner, functions, callbacks, at_exit, sets, leaving)
        )
    return rows, symbols

"""Emission: a bundle in, the bytes of a loadable module out."""

from __future__ import annotations

from dataclasses import dataclass

from builder.arch import Architecture, by_machine
from builder.binary import loaded_note, write_object
from builder.binary.manifest import SECTION, Manifest
from builder.compose.bound import Bound
from builder.compose.bundle import Bundle
from builder.compose.macros import MODULE_EXIT
from builder.emit import derived, fragments, glue, link, readback, thunks
from builder.emit.manifest import manifest
from builder.errors import KernelError


@dataclass(frozen=True)
class Module:
    """An emitted module: its name, its bytes and the manifest that is also inside."""

    name: str
    content: bytes
    manifest: Manifest


def emit(bundle: Bundle) -> Module:
    """Emit the module. The same bundle gives the same bytes.

    Raises ToolError without GNU `as`, KernelError for a kernel that lacks what
    every livepatch needs.
    """
    kernel = bundle.kernel
    kernel.require_livepatch()
    arch = by_machine(bundle.pairs[0].diff.comparison.new.obj.machine, where=bundle.name)
    parts = derived.derive(bundle, arch, thunks.add(bundle, arch, fragments.collect(bundle)))
    features = kernel.features
    linker = link.Linker(arch, bundle.name, bind_once=features.relocs_at_load and not features.finds_by_name)
    linker.add(parts)
    # From here on every fragment has its place.
    objects, symbols = _objects(bundle)
    used = link.imports(parts)
    needed = {n: b.crc for n, b in used.items()} | {n: _crc(bundle, n) for n in _glue_imports(bundle, arch)}
    versions = sorted((n, c) for n, c in needed.items() if c is not None)
    namespaces = sorted({b.namespace for b in used.values() if b.namespace})
    said = glue.GlueParts(
        bundle.name,
        objects,
        versions=versions if features.modversions else (),
        namespaces=namespaces,
        replace=bundle.replace,
        states=sum(len(bound.diff.selection.macros.states) for bound in bundle.pairs),
    )
    linker.add_glue(glue.assemble(kernel, arch.glue, said), symbols)
    linker.resolve(parts)
    bare = linker.object({}, {})
    document = manifest(bundle, bare, parts)
    meant = linker.object({SECTION: document.to_bytes()}, {loaded_note.SECTION: loaded_note.to_note(document)})
    content = write_object(meant)
    readback.verify(content, meant)
    return Module(bundle.name, content, document)


def _glue_imports(bundle: Bundle, arch: Architecture) -> list[str]:
    """Symbols that the glue itself takes from the kernel."""
    features = bundle.kernel.features
    leaving = any(bound.diff.selection.exits for bound in bundle.pairs)
    exits = glue.exit_imports(bundle.kernel) if leaving else ()
    return [*glue.IMPORTS, *exits, *(name for feature, name in arch.glue.imports if features.has(feature))]


def _crc(bundle: Bundle, name: str) -> int | None:
    found = bundle.kernel.export(name)
    if found is None:
        if name == "module_layout" and not bundle.kernel.features.modversions:
            return None
        raise KernelError(f"the kernel does not export {name}", where=bundle.kernel.path)
    return found.crc


def _objects(bundle: Bundle) -> tuple[list[glue.GlueObject], dict[str, object]]:
    """klp_object rows by owner, vmlinux first, and the keys of the symbols they use."""
    owners: dict[str, list[tuple[int, Bound]]] = {}
    for number, bound in enumerate(bundle.pairs):
        owners.setdefault(bound.owner.name, []).append((number, bound))
    symbols: dict[str, object] = {}
    rows = []
    for owner in sorted(owners, key=lambda n: (n != "vmlinux", n)):
        functions, callbacks, at_exit, sets, leaving = [], {}, [], [], ""
        for number, bound in owners[owner]:
            if bound.sets:
                symbol = f"bespoke_new_{len(symbols)}"
                symbols[symbol] = (number, "sets")
                sets.append(glue.GlueSets(symbol, len(bound.sets)))
            selection = bound.diff.selection
            for atom in selection.redirected:
                match = bound.matches[bound.diff.comparison.correlation.twins[atom]]
                symbol = f"bespoke_new_{len(symbols)}"
                symbols[symbol] = (number, atom)
                functions.append(glue.GlueFunction(match.name, match.sympos, symbol))
            if selection.exits:
                leaving = f"bespoke_new_{len(symbols)}"
                symbols[leaving] = (number, selection.exits[0])
            for kind, atom in selection.macros.callbacks.items():
                symbol = f"bespoke_new_{len(symbols)}"
                symbols[symbol] = (number, atom)
                if kind == MODULE_EXIT:
                    at_exit.append(symbol)
                else:
                    callbacks[kind] = symbol
        rows.append(
            glue.GlueObject(None if owner == "vmlinux" else owner, functions, callbacks, at_exit, sets, leaving)
        )
    return rows, symbols

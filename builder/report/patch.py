"""What came of source patches, for scripts and for people: from what, with what, checked against what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.emit.patched import Patched

if TYPE_CHECKING:
    from rich.console import Group

    from builder.acquire.source import SourceTree


def patch_document(patched: Patched, path: Path, following: str) -> dict[str, Any]:
    """The module's manifest (where there is one), where it was written, and where it comes from."""
    rows = [
        {"path": pair.path, "owner": pair.owner, **document}
        for pair, document in zip(patched.objects.pairs, patched.documents, strict=True)
    ]
    tree = patched.objects.tree
    built = {
        "tree": tree.identity,
        "kernel_version": tree.kernel_version,
        "compiler": tree.compiler.version,
        "drift": list(tree.drift),
        "files": list(patched.objects.files),
        "considered": patched.objects.considered,
        "compiled": _compiled(patched),
        "log": str(patched.objects.log),
        "warnings": [w.as_json() for w in patched.objects.warnings],
    }
    if patched.module is None:
        return {"verdict": "unchanged", "objects": rows, "built_from": built}
    more = {"module": str(path), "next": following}
    return {**patched.module.manifest.as_json(), "verdict": "changed", "source": rows, "built_from": built, **more}


def render_patch(patched: Patched, path: Path, verbose: bool, following: str) -> Group:
    """The source and the compiler, what was compared with the kernel, then the module, which there must be."""
    # Here, for what people are shown is slow to import, and a document needs none of it.
    from rich.console import Group

    from builder.report.build import render_build
    from builder.report.spelled import one_line

    assert patched.module is not None
    objects, manifest = patched.objects, patched.module.manifest
    tree, count = objects.tree, _compiled(patched)
    considered = f" of {objects.considered} that may be concerned" if objects.considered > count else ""
    owners = ", ".join(sorted({f.object for f in manifest.redirected}))
    checked = f"{len(patched.functions)} replaced function{'s' * (len(patched.functions) != 1)}"
    lines = [
        f"{', '.join(objects.files)}: {count} object{'s' * (count != 1)} compiled{considered}, before and "
        f"after, from {tree.identity} by {tree.compiler.version} (log: {objects.log})",
        f"checked against {owners or 'vmlinux'} of {manifest.kernel.release}: {checked} found there byte by byte",
    ]
    lines += [f"configuration differs: {option}" for option in tree.drift]
    notes = [one_line(f"  {w.code}: {w.message}", style="yellow") for w in objects.warnings]
    head = [one_line(line, style="dim") for line in lines]
    return Group(*head, *notes, render_build(manifest, patched.documents, path, verbose, following))


def source_facts(tree: SourceTree) -> tuple[tuple[str, str], ...]:
    """What objects were compiled from and by, as rows of a page: the source's name and version, without places."""
    return (
        ("source", f"{' '.join(tree.identity.split('_')[:2])} (Linux {tree.kernel_version})"),
        ("compiler", tree.compiler.version),
    )


def _compiled(patched: Patched) -> int:
    """How many objects were compiled: one may be a part of several owners."""
    return len({pair.path for pair in patched.objects.pairs})

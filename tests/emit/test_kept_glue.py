"""What was assembled once is not assembled again, and what is kept is what would be assembled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder.acquire import cache
from builder.arch import Glue, by_machine
from builder.binary import elf
from builder.emit import glue
from builder.emit.glue import GlueFunction, GlueObject, GlueParts
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel

PARTS = GlueParts("fix", [GlueObject(None, [GlueFunction("cmdline_proc_show", 0, "new_0")])], [("module_layout", 7)])
OTHERS = (
    replace(PARTS, name="fixes"),
    replace(PARTS, objects=[GlueObject("ext4", PARTS.objects[0].functions)]),
    replace(PARTS, versions=[("module_layout", 8)]),
    replace(PARTS, namespaces=["CRYPTO"]),
    replace(PARTS, replace=True),
)


def test_each_glue_is_assembled_once(release_61: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, machine = opened(release_61), by_machine(elf.EM_X86_64, where="").glue
    runs: list[str] = []

    def counted(run: Callable[..., bytes]) -> Callable[..., bytes]:
        def assembled(tool: str, source: str, options: object) -> bytes:
            runs.append(source)
            return run(tool, source, options)

        return assembled

    def made(parts: GlueParts, machine: Glue = machine) -> object:
        found = glue.assemble(kernel, machine, parts)
        return [(section.name, section.data) for section in found.sections], found.symbols

    elsewhere = cache.cache_path

    def own(kind: str, name: str) -> Path:
        return tmp_path / name if kind.startswith("glue/") else elsewhere(kind, name)

    monkeypatch.setattr(cache, "cache_path", own)
    monkeypatch.setattr(glue, "_run_assembler", counted(glue._run_assembler))
    first = made(PARTS)
    assert made(PARTS) == first and len(runs) == 1
    rest = [made(parts) for parts in OTHERS]
    assert len(runs) == 1 + len(OTHERS), "what is another glue was taken for this one"
    assert all(other != first for other in rest)
    made(PARTS, replace(machine, assembler=(*machine.assembler, "--noexecstack")))
    assert len(runs) == 2 + len(OTHERS), "other options of the assembler"
    kept = sorted(tmp_path.iterdir())
    for place in kept:
        place.write_bytes(place.read_bytes().replace(b"A", b"B"))
    assert made(PARTS) == first and len(runs) == 3 + len(OTHERS), "what was damaged is made again"

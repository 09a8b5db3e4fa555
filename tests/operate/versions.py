"""The probed module and its versions, compiled for a kernel release; kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.cache import published
from builder.acquire.packages import fetch_headers, fetch_kernel
from builder.acquire.tools import run
from builder.binary import read_object
from builder.binary.kernel import Kernel
from builder.compare import View
from builder.compose.owner import Objects
from builder.errors import NOTHING, Allowed
from builder.pipeline import ModulePlan, build, diff

SOURCES = Path(__file__).parent / "module"
NAME = "bespoke_probed"
VERSIONS = 3
LONGEST = "p1_".ljust(55, "x")
"""A name of as many characters as a module's may have: with it, places are longer than what the kernel compares."""


@dataclass(frozen=True, slots=True)
class Probed:
    """`module` is what is loaded, `objects[N]` the object of version N; 0 is what it was linked from."""

    kernel: Kernel
    module: Path
    objects: tuple[Path, ...]

    def build(
        self,
        old: int,
        new: int,
        name: str,
        *,
        on: Path | None = None,
        replace: bool = False,
        allowed: Allowed = NOTHING,
    ) -> bytes:
        """The livepatch from one version to another."""
        module = build(
            [diff(self.objects[old], self.objects[new])],
            Objects(self.kernel, {self.module.stem: self.module}),
            ModulePlan(name, on=on, replace=replace, allowed=allowed),
        )
        assert module is not None
        return module.content


def offsets(made: Probed) -> dict[str, int]:
    """Places in version 0: behind inner()'s ftrace location, at its first branch, at the begin of its `.cold` part.

    `late` and `deep`, calls of functions of the module, are bound only when the patch is enabled.
    """
    view = View(read_object(made.objects[0]))
    inner, cold = (list(view.instructions(view.by_name[name])) for name in ("inner", "inner.cold"))
    late, deep = (next(i.offset for i in rows if i.is_call and i.offset) for rows in (inner, cold))
    return {"early": inner[1].offset, "mid": inner[5].offset, "cold": 0, "late": late, "deep": deep}


def behind(made: Probed) -> int:
    """The offset in version 0's outer() at which its first real call has returned."""
    view = View(read_object(made.objects[0]))
    calls = [i for i in view.instructions(view.by_name["outer"]) if i.is_call]
    return calls[1].end


def probed(release: str) -> Probed:
    return compiled(release, NAME, sorted(path for path in SOURCES.iterdir() if path.is_file()))


def compiled(release: str, name: str, sources: Sequence[Path]) -> Probed:
    """Compile all versions of module `name` in one directory, because file names are part of an object."""
    headers = fetch_headers(release)
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in (*sources, Path(__file__)))).hexdigest()[:16]

    def make(place: Path) -> None:
        work = place / "work"
        work.mkdir()
        for source in sources:
            shutil.copy(source, work)
        command: list[str | Path] = ["make", "-s", "-C", headers.build, f"M={work}", "CONFIG_DEBUG_INFO_BTF_MODULES="]
        for version in range(VERSIONS):
            run([*command, f"VERSION_OF_CODE={version}", "modules"])
            shutil.copy(work / f"{name}.o", place / f"version{version}.o")
            if not version:
                os.replace(work / f"{name}.ko", place / f"{name}.ko")
        shutil.rmtree(work)

    root = published("samples", f"probed-{release}-{headers.version}-{digest}", make)
    objects = tuple(root / f"version{version}.o" for version in range(VERSIONS))
    return Probed(Kernel.open(fetch_kernel(release).image), root / f"{name}.ko", objects)

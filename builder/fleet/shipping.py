"""Packages of a fleet: for each fix one, with its modules for all kernels that it shipped for.

    out/packages/livepatch-FIX_1_amd64.deb

They are made of what lies in the output folder, so that what was signed is what is packed. The module of all fixes
together has a package of its own, which stands for those of the fixes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builder.errors import UsageError
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult
from builder.packages import PackagedModule, PackageKind, PackagePlan, need_packager, package

FOLDER: Final = "packages"


@dataclass(frozen=True, slots=True)
class Packing:
    """Of which kinds packages are wanted, and what they say of themselves besides their fix."""

    kinds: tuple[PackageKind, ...]
    version: str
    maintainer: str

    def plan(self, fix: str) -> PackagePlan:
        """That of a fix; raises as PackagePlan."""
        return PackagePlan(f"livepatch-{fix.lower().replace('_', '-')}", self.version, self.maintainer)


def check_packing(packing: Packing, fixes: Iterable[str], kernels: Iterable[FleetKernel]) -> None:
    """Raise now what would fail when all the work is done: for a lacking program, two kernels or packages of one name.

    UsageError or MissingToolError.
    """
    if not packing.kinds:
        return
    for kind in packing.kinds:
        need_packager(kind)
    names = Counter(packing.plan(fix).name for fix in fixes)
    releases = Counter(kernel.release for kernel in kernels)
    for what, counts in (("fixes would be packages called", names), ("kernels are of release", releases)):
        if twice := next((name for name, count in counts.items() if count > 1), None):
            raise UsageError(f"two {what} {twice}: make their packages apart")


def write_packages(packing: Packing, results: Sequence[CellResult], root: Path) -> list[dict[str, Any]]:
    """Write the packages of what shipped into the output folder `root`, and return a row for each: its `file` by the
    folder, its `fix`, and the `kernels` that it has a module for."""
    place = root / FOLDER
    if packing.kinds:
        place.mkdir(exist_ok=True)
    shipped: dict[str, list[str]] = {}
    for result in results:
        if result.verdict == "shipped":
            shipped.setdefault(result.fix, []).append(result.kernel)
    rows = []
    for fix, kernels in shipped.items():
        modules = [PackagedModule.read(root / kernel / f"{fix}.ko") for kernel in kernels]
        for kind in packing.kinds:
            written = package(modules, packing.plan(fix), kind, place)
            rows.append({"file": str(written.relative_to(root)), "fix": fix, "kernels": kernels})
    return rows

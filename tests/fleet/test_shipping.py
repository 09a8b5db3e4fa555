"""Packages of a fleet: one for each fix, of what lies in the output folder, and told before the work what cannot be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.errors import MissingToolError, UsageError
from builder.fleet.document import index_of
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult
from builder.fleet.plan import make_plan
from builder.fleet.shipping import Packing, check_packing, write_packages
from builder.fleet.spec import Fleet, FleetFix, PatchText, Variant
from builder.fleet.store import Store
from tests.conftest import need
from tests.docs.forms import broken_livepatch

NAME = "broken_patch"

PACKING = Packing(("deb",), "2", "A Person <a.person@example.com>")


def kernel(release: str, name: str = "") -> FleetKernel:
    return FleetKernel(name or release, release, "1")


@pytest.mark.kernel
def test_a_package_for_each_fix(release_61: str, tmp_path: Path) -> None:
    need("dpkg-deb")
    fixes = tuple(FleetFix(name, (Variant("", (PatchText("x.patch", b"x"),)),)) for name in (NAME, "other"))
    store = Store(tmp_path)
    plan = make_plan(Fleet(fixes, ("-",)), store, (kernel(release_61),))
    ships, other = plan.orders
    module = broken_livepatch(release_61).forms["intact"]
    results = [
        store.put(CellResult(ships.key, NAME, release_61, "shipped", module=module, manifest={})),
        store.put(CellResult(other.key, "other", release_61, "refused")),
    ]
    (row,) = packages = write_packages(PACKING, results, tmp_path)
    name = f"livepatch-{NAME.replace('_', '-')}"
    assert row == {"file": f"packages/{name}_2_amd64.deb", "fix": NAME, "kernels": [release_61]}
    store.finish(index_of(plan, results, 1.0, packages))
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", row["file"], "root"], cwd=tmp_path, check=True)
    assert (tmp_path / f"root/usr/lib/{name}/{release_61}/{NAME}.ko").read_bytes() == module
    # A run without packages takes those away that were listed.
    store.finish(index_of(plan, results, 1.0))
    assert not (tmp_path / row["file"]).exists() and (tmp_path / release_61 / f"{NAME}.ko").exists()


def test_what_cannot_be_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("dpkg-deb")
    one = [kernel("6.1.0-1-a")]
    check_packing(PACKING, ["a", "b"], one)
    with pytest.raises(UsageError, match=r"two kernels are of release 6\.1\.0-1-a"):
        check_packing(PACKING, ["a"], [*one, kernel("6.1.0-1-a", "6.1.0-1-a-beef")])
    with pytest.raises(UsageError, match="two fixes would be packages called livepatch-a-b"):
        check_packing(PACKING, ["a_b", "A_b"], one)
    with pytest.raises(UsageError, match="maintainer"):
        check_packing(Packing(("deb",), "2", "nobody"), ["a"], one)
    check_packing(Packing((), "2", "nobody"), ["a_b", "A_b"], one)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match="apt-get install dpkg"):
        check_packing(PACKING, ["a"], one)

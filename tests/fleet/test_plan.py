"""What a plan would take, by what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult
from builder.fleet.plan import make_plan, record, recorded
from builder.fleet.spec import Demands, Fleet, FleetFix, PatchText, Variant
from builder.fleet.store import Store
from builder.report.fleet_plan import render_plan

KERNELS = (FleetKernel("6.1.0-1-a", "6.1.0-1-a", "1"), FleetKernel("6.12.0-2-a", "6.12.0-2-a", "2"))


def test_what_is_to_do_and_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    fixes = tuple(FleetFix(name, (Variant("", (PatchText("x.patch", b"x"),)),)) for name in ("a", "b"))
    store = Store(tmp_path / "out")
    plan = make_plan(Fleet(fixes, ("-",), Demands(cumulative="all_of_it")), store, KERNELS)
    found = plan.estimate(workers=2)
    assert (found["cells"], found["to_do"], found["cumulative"]) == (4, 4, 2)
    # Six modules and two sources, by the usual costs.
    assert (found["work_seconds"], found["seconds"]) == (6 * 8 + 2 * 60, 84)
    console = Console(width=200)
    with console.capture() as said:
        console.print(render_plan(found))
    assert "4 cells, 0 of them done, 4 to do, and a module of all fixes for 2 kernels" in said.get()
    # What was measured counts from then on: of the fix elsewhere, else of all.
    done = store.put(CellResult(plan.orders[0].key, "a", KERNELS[0].name, "refused", phases={"patch": 20.0}))
    record([done], [100.0])
    assert (recorded().prepare, recorded().cell) == (100.0, 20.0)
    plan = make_plan(plan.fleet, store, KERNELS)
    found = plan.estimate(workers=1)
    assert (found["done"], found["to_do"], found["cumulative"]) == (1, 3, 2)
    assert found["work_seconds"] == 5 * 20 + 2 * 100

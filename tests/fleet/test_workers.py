"""Who does the work, and what is said where there is nobody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from builder.errors import ToolError, UsageError
from builder.fleet import engine, workers
from builder.fleet.engine import run_fleet
from builder.fleet.kernels import FleetKernel
from builder.fleet.plan import make_plan
from builder.fleet.spec import Fleet, FleetFix, PatchText, Variant
from builder.fleet.store import Store
from builder.fleet.workers import Crew, check_crew, crew
from tests.conftest import ROOT
from tests.fleet.doings import DOING


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1: no scheduler answers: Timed out"),
        ("nonsense", "nonsense: no scheduler answers: missing port number"),
        ("foo://host:1", "foo://host:1: no scheduler answers: unknown address scheme 'foo'"),
    ],
)
def test_a_scheduler_that_does_not_answer_is_named(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ANSWER", 0.5)
    with pytest.raises(ToolError, match=said), crew(Crew(address)):
        pass


@pytest.mark.parametrize(
    ("how", "option"), [(Crew(workers=0), "workers"), (Crew(retries=-1), "retries"), (Crew(timeout=0), "timeout")]
)
def test_numbers_that_cannot_be(how: Crew, option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option} takes a number"):
        check_crew(how)


def test_a_scheduler_without_workers_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "DESERTED", 0.5)
    (tmp_path / "begun").mkdir()
    text = PatchText("x.patch", f"{tmp_path / 'begun'}\n".encode())
    store = Store(tmp_path / "out")
    wanted = Fleet((FleetFix("a", (Variant("", (text,)),)),), ("-",))
    plan = make_plan(wanted, store, (FleetKernel("6.1.0-1-a", "6.1.0-1-a", "1"),))
    events = []

    def told(row: Mapping[str, Any]) -> None:
        events.append(row["event"])
        if row["event"] == "waiting":
            cluster.scale(1)

    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        (row,) = run_fleet(plan, store, client, told=told, doing=DOING)
    assert row.verdict == "shipped" and events == ["waiting", "preparing", "kernel", "begun", "cell"]


def test_a_fleet_without_dask_says_how_to_get_it() -> None:
    text = (
        "import sys; sys.modules['distributed'] = None; from builder.cli import run; "
        "sys.exit(run(['fleet', '--simulate', '2', '--matrix', '3x2']))"
    )
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "pip install 'bespoke-livepatch[fleet]'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr

"""The engine with real workers: what is lost, dies, hangs or was done before. The cells are those of `doings`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from builder.errors import ToolError, UsageError
from builder.fleet.document import exit_status, index_of
from builder.fleet.engine import run_fleet
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult
from builder.fleet.plan import Plan, make_plan
from builder.fleet.spec import Demands, Fleet, FleetFix, PatchText, Variant
from builder.fleet.store import Store
from builder.fleet.workers import Crew, crew
from tests.conftest import ROOT
from tests.fleet.doings import DOING

pytestmark = pytest.mark.timeout(120)

KERNELS = (FleetKernel("6.1.0-1-a", "6.1.0-1-a", "1"), FleetKernel("6.12.0-2-a", "6.12.0-2-a", "2"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with crew(Crew(workers=2)) as made:
        yield made


def fleet(folder: Path, *names: str, cumulative: str = "") -> Fleet:
    folder.mkdir(exist_ok=True)
    text = PatchText("x.patch", f"{folder}\n".encode())
    fixes = (FleetFix(name, (Variant("6.1" if name == "only" else "", (text,)),)) for name in names)
    return Fleet(tuple(fixes), ("-",), Demands(cumulative=cumulative))


def ran(
    client: Client, wanted: Fleet, store: Store, how: Crew | None = None, kernels: Sequence[FleetKernel] = KERNELS
) -> tuple[Plan, dict[tuple[str, str], CellResult]]:
    plan = make_plan(wanted, store, tuple(kernels))
    results = list(run_fleet(plan, store, client, how, doing=DOING))
    store.finish(index_of(plan, results, 1.0))
    found = {(row.fix, row.kernel): row for row in results}
    assert len(found) == len(results), "no cell comes twice"
    return plan, found


def beginnings(folder: Path) -> Counter[str]:
    return Counter(path.name.rsplit(".", 1)[0] for path in folder.iterdir())


def test_every_cell_and_the_modules_of_all_fixes_together(client: Client, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    _, found = ran(client, fleet(folder, "a", "refused", "only", cumulative="all_of_it"), store)
    verdicts = {place: row.verdict for place, row in found.items()}
    for kernel in KERNELS:
        assert verdicts["a", kernel.name] == verdicts["all_of_it", kernel.name] == "shipped"
        assert verdicts["refused", kernel.name] == "refused"
    assert verdicts["only", KERNELS[0].name] == "shipped" and verdicts["only", KERNELS[1].name] == "not-meant"
    # The module of all fixes holds those that the kernel can have, in their order.
    line = f"{folder}\n".encode()
    assert (store.root / "6.1.0-1-a/all_of_it.ko").read_bytes() == line * 2 + b"6.1.0-1-a"
    assert (store.root / "6.12.0-2-a/all_of_it.ko").read_bytes() == line + b"6.12.0-2-a"
    index = json.loads((store.root / "index.json").read_text())
    assert index["counts"] == {"shipped": 5, "not-meant": 1, "refused": 2} and exit_status(index["counts"]) == 1
    lines = (store.root / "SHA256SUMS").read_text().splitlines()
    listed = {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}
    assert listed == {f"{row.kernel}/{row.fix}.ko": row.sha256 for row in found.values() if row.module}
    assert sorted(listed) == sorted(str(p.relative_to(store.root)) for p in store.root.glob("*/*.ko"))


def test_what_is_done_is_not_done_again(client: Client, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    ran(client, fleet(folder, "a", "refused"), store)
    plan, found = ran(client, fleet(folder, "a", "refused", "b"), store)
    assert {order.fix for order in plan.to_do} == {"b"} and len(found) == 6
    assert set(beginnings(folder).values()) == {1}
    # A module that is damaged is made again; a fix that is no part of the fleet any more takes its modules with it.
    (store.root / "6.1.0-1-a/a.ko").write_bytes(b"damaged")
    plan, found = ran(client, fleet(folder, "a"), store)
    assert [(order.fix, order.kernel.name) for order in plan.to_do] == [("a", "6.1.0-1-a")]
    assert sorted(path.name for path in store.root.glob("*/*.ko")) == ["a.ko", "a.ko"]
    assert make_plan(fleet(folder, "a"), store, KERNELS, again=True).to_do == plan.orders
    # So is a cell whose result is damaged.
    (kept,) = [path for path in store.root.glob(".fleet/cells/*/*") if path.stem == plan.orders[1].key]
    kept.write_text("{")
    assert make_plan(fleet(folder, "a"), store, KERNELS).to_do == plan.orders[1:]
    # Other content, another cell.
    other = replace(KERNELS[0], version="3")
    assert len(make_plan(fleet(folder, "a"), store, (other,)).to_do) == 1


def test_a_worker_that_dies_takes_no_other_cell_with_it(client: Client, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    names = [f"good{number}" for number in range(12)]
    _, found = ran(client, fleet(folder, "dies", "unlucky", *names), store, Crew(retries=1), KERNELS[:1])
    row = found["dies", "6.1.0-1-a"]
    assert row.verdict == "trouble" and "died" in row.detail and row.tries >= 2
    assert found["unlucky", "6.1.0-1-a"].verdict == "shipped" and found["unlucky", "6.1.0-1-a"].tries == 2
    assert {found[name, "6.1.0-1-a"].verdict for name in names} == {"shipped"}
    # What is no result is tried again by the next run.
    assert [order.fix for order in make_plan(fleet(folder, "dies", *names), store, KERNELS[:1]).to_do] == ["dies"]


@pytest.mark.long
def test_a_source_that_was_taken_for_a_killer_is_made_again(client: Client, tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    kernel = FleetKernel("unlucky", "6.1.0-3-a", str(tmp_path / "sources"))
    wanted = fleet(tmp_path / "begun", "a", "b")
    _, found = ran(client, wanted, Store(tmp_path / "out"), kernels=[kernel])
    assert {row.verdict for row in found.values()} == {"shipped"} and len(list((tmp_path / "sources").iterdir())) == 5


def test_a_cell_that_hangs_is_ended(client: Client, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    how = Crew(retries=1, timeout=2.0)
    _, found = ran(client, fleet(folder, "hangs", "good", "fine"), store, how, KERNELS[:1])
    row = found["hangs", "6.1.0-1-a"]
    assert row.verdict == "trouble" and "did not end within 2 s" in row.detail and row.tries in (2, 3)
    assert found["good", "6.1.0-1-a"].verdict == found["fine", "6.1.0-1-a"].verdict == "shipped"


@pytest.mark.long
def test_a_source_that_is_never_ready_is_given_up(client: Client, tmp_path: Path) -> None:
    wanted = fleet(tmp_path / "begun", "a", "b", cumulative="all_of_it")
    kernels = [FleetKernel("endless", "6.1.0-3-a", "1"), KERNELS[0]]
    _, found = ran(client, wanted, Store(tmp_path / "out"), Crew(retries=1, timeout=3.0), kernels)
    assert {place for place, row in found.items() if row.verdict == "trouble"} == {("a", "endless"), ("b", "endless")}
    assert "source was not ready within 3 s" in found["a", "endless"].detail
    assert found["all_of_it", "6.1.0-1-a"].verdict == "shipped" and len(found) == 5


def test_a_worker_without_room_is_spared(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    with crew(Crew(workers=2)) as client:
        _, found = ran(client, fleet(folder, "full", "good"), store, kernels=KERNELS[:1])
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 1
    row = found["full", "6.1.0-1-a"]
    assert row.verdict == "shipped" and row.tries == 2


@pytest.mark.long
def test_a_lost_scheduler_is_told_and_what_was_done_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    plan = make_plan(fleet(folder, "a", "hangs"), store, KERNELS[:1])
    with (
        scheduler_and_worker(tmp_path, PYTHONPATH=str(ROOT)) as (scheduler, where),
        pytest.raises(ToolError, match="the scheduler is gone, and 1 cells are not done"),
        crew(Crew(scheduler=where)) as client,
    ):
        client.wait_for_workers(1)
        for result in run_fleet(plan, store, client, Crew(scheduler=where), doing=DOING):
            assert result.fix == "a"
            scheduler.kill()
    assert [order.fix for order in make_plan(fleet(folder, "a", "hangs"), store, KERNELS[:1]).to_do] == ["hangs"]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.long
def test_a_worker_without_the_package_is_told(tmp_path: Path) -> None:
    (tmp_path / "other/builder").mkdir(parents=True)
    (tmp_path / "other/builder/__init__.py").touch()
    with scheduler_and_worker(tmp_path, PYTHONPATH=str(tmp_path / "other")) as (_, where):
        with Client(where, set_as_default=False) as client:
            client.wait_for_workers(1)
        with pytest.raises(ToolError, match=r"a worker there cannot do.*No module named"), crew(Crew(scheduler=where)):
            pass


@contextmanager
def scheduler_and_worker(folder: Path, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """As processes of their own, with the worker's environment: the scheduler and its address."""
    address = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address)]
    silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    with ExitStack() as stack:
        scheduler = stack.enter_context(ended(subprocess.Popen([*dask, *words], **silent)))
        while not address.exists():
            time.sleep(0.1)
        where = json.loads(address.read_text())["address"]
        words = ["worker", where, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
        words += ["--resources", "compile=1"]
        stack.enter_context(ended(subprocess.Popen([*dask, *words], env={**os.environ, **env}, **silent)))
        yield scheduler, where


@contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_an_end_in_between_leaves_what_is_done(client: Client, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    wanted = fleet(folder, *(f"good{number}" for number in range(6)))
    running = run_fleet(make_plan(wanted, store, KERNELS), store, client, doing=DOING)
    first = next(running)
    with pytest.raises(UsageError, match="another run"), store.held():
        pass
    running.close()
    known, kernels = store.remembered()
    assert known == wanted and kernels == KERNELS
    plan = make_plan(known, store, kernels)
    assert first.key in plan.known and len(plan.known) + len(plan.to_do) == 12
    _, found = ran(client, known, store)
    assert {row.verdict for row in found.values()} == {"shipped"} and not list(store.root.rglob(".*.ko.*"))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file: nothing can be written there: Not a"), Store(tmp_path / "file").held():
        pass


@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_an_interrupt_leaves_no_process(tmp_path: Path, sign: signal.Signals) -> None:
    """At a terminal SIGINT goes to all processes of a run, SIGTERM comes to its client alone."""
    out, folder = tmp_path / "out", tmp_path / "begun"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.fleet.interrupted", f"{out}", f"{folder}", "good", "runs", "runs_too"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes) as client, ended(client):
        while client.poll() is None and len(programs(folder)) < 2:
            time.sleep(0.1)
        started = time.monotonic()
        if sign == signal.SIGINT:
            os.killpg(client.pid, sign)
        else:
            client.send_signal(sign)
        said, errors = client.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert said == "good shipped\n" and "Dask" not in errors and errors.count("Traceback") == (sign == signal.SIGINT)
    assert not programs(folder)
    # What keeps account of the processes' semaphores ends a moment after them.
    until = time.monotonic() + 10
    while (left := processes("-g", client.pid)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    kept = [path for path in out.rglob("*") if path.is_file() and path.name not in ("lock", "fleet.json")]
    assert sorted(path.suffix for path in kept) == [".json", ".json", ".ko"]


@pytest.mark.long
def test_a_client_that_is_killed_takes_its_workers_with_it(client: Client, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "out"), tmp_path / "begun"
    wanted = fleet(folder, "good", "hangs", "hangs_too")
    command = [sys.executable, "-m", "tests.fleet.interrupted", f"{store.root}", f"{folder}"]
    names = [fix.name for fix in wanted.fixes]
    with subprocess.Popen([*command, *names], cwd=ROOT, start_new_session=True) as killed, ended(killed):
        while killed.poll() is None and len(beginnings(folder)) < 3:
            time.sleep(0.1)
    until = time.monotonic() + 20
    while (left := processes("-g", killed.pid)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    # And what it has written is whole: the next run does what is missing.
    plan = make_plan(wanted, store, KERNELS[:1])
    assert [order.fix for order in plan.to_do] == ["hangs", "hangs_too"]


def programs(folder: Path) -> list[str]:
    """Those that cells of `folder` run."""
    return processes("-f", f"sleep of {folder}")


def processes(*words: object) -> list[str]:
    found = subprocess.run(["pgrep", *map(str, words)], capture_output=True, text=True, check=False)
    return found.stdout.split()

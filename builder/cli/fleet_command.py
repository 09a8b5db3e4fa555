"""`bespoke fleet fleet.toml -o OUT`, or `--fixes DIR --kernels K...`."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.cli.common import Output
from builder.cli.signing import add_signing, signing_key
from builder.errors import MissingToolError, UsageError
from builder.fleet.board import Board, trouble_line
from builder.fleet.document import counted, exit_status, index_of
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import VERDICTS, CellResult
from builder.fleet.pages import write_report
from builder.fleet.plan import Plan, make_plan
from builder.fleet.shipping import FOLDER, Packing, check_packing, write_packages
from builder.fleet.spec import Demands as FleetDemands
from builder.fleet.spec import Fleet, fixes_of, made, read_fleet
from builder.fleet.store import Store
from builder.packages import usual_maintainer
from builder.report.fleet_plan import render_plan, render_simulation
from builder.report.spelled import one_line


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fleet", nargs="?", type=Path, metavar="FLEET.toml", help="fixes, kernels and what is asked")
    parser.add_argument("--fixes", type=Path, metavar="DIR", help="a directory of fixes, instead of a FLEET.toml")
    parser.add_argument(
        "--kernels",
        nargs="+",
        default=[],
        metavar="K",
        help="releases, images, suites, patterns such as 6.1.0-*, or 'newest N of SUITE'",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("out"), metavar="DIR", help="where all goes (out)")
    parser.add_argument(
        "--cpu", action="append", default=[], metavar="MODEL", help="check on this CPU model; several times for several"
    )
    parser.add_argument("--no-check", action="store_true", help="do not check the modules")
    parser.add_argument("--try", dest="trial", action="store_true", help="try each module in a guest")
    parser.add_argument("--cumulative", metavar="NAME", help="also a module of all fixes together for each kernel")
    parser.add_argument("--replace", action="store_true", help="modules that take the place of all earlier livepatches")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CODE:SYMBOL", help="accept this refusal of judgement"
    )
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help="a Dask scheduler (default: this machine)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes on this machine (default: one per CPU)")
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="try what fails so many times more (2)")
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S", help="seconds for one cell (1800)")
    parser.add_argument("--plan", action="store_true", help="only show what would be done, and what it would take")
    parser.add_argument(
        "--simulate", type=int, metavar="WORKERS", help="only let the scheduler go through it in no time"
    )
    parser.add_argument("--matrix", default="", metavar="FxK", help="of --simulate: so many fixes and kernels instead")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument("--again", action="store_true", help="do everything, also what is done")
    add_signing(parser)
    for kind, text in (("deb", "Debian packages"), ("rpm", "RPMs")):
        parser.add_argument(
            f"--{kind}", dest="kinds", action="append_const", const=kind, help=f"{text} of what ships, one for each fix"
        )
    parser.add_argument("--package-version", default="1", metavar="V", help="the packages' version (default: 1)")
    parser.add_argument(
        "--maintainer", metavar="'NAME <MAIL>'", help="the packages' maintainer (default: $DEBFULLNAME <$DEBEMAIL>)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    # Cancelled by a CI: end the workers, as an interrupt does, and not only this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    key = signing_key(options)
    store = Store(options.output, key)
    if options.simulate is not None and options.matrix:
        return _simulate(options, output, None)
    fleet, kernels = _asked(options, store)
    fleet = replace(fleet, demands=replace(fleet.demands, signer=key.fingerprint if key else ""))
    packing = Packing(
        tuple(options.kinds or ()), options.package_version, options.maintainer or usual_maintainer("deb")
    )
    plan = make_plan(fleet, store, kernels, again=options.again)
    check_packing(packing, plan.names, plan.kernels)
    if options.simulate is not None:
        return _simulate(options, output, plan)
    if options.plan:
        return _show(options, output, plan)
    return _run(options, output, plan, store, packing)


def _asked(options: argparse.Namespace, store: Store) -> tuple[Fleet, tuple[FleetKernel, ...] | None]:
    """The fleet that the arguments name, and its kernels where they were found before."""
    given = options.fleet is not None, options.fixes is not None
    if given == (False, False) and options.resume:
        return store.remembered()
    if given == (False, False):
        raise UsageError("say what to do: a FLEET.toml, or --fixes DIR and --kernels K")
    if all(given):
        raise UsageError("a FLEET.toml and --fixes say the same: give one of them")
    if options.resume:
        store.remembered()  # its error says that nothing has begun there
    if options.fleet is not None:
        fleet = read_fleet(options.fleet)
    else:
        fleet = made(fixes_of(options.fixes), options.kernels, FleetDemands(), where="--kernels")
    demands = fleet.demands
    cpus = () if options.no_check else tuple(options.cpu) or demands.cpus
    demands = replace(
        demands,
        cpus=cpus,
        trial=demands.trial or options.trial,
        replace=demands.replace or options.replace,
        allow=(*demands.allow, *options.allow),
        cumulative=options.cumulative or demands.cumulative,
    )
    kernels = tuple(options.kernels) or fleet.kernels
    return made(fleet.fixes, kernels, demands, where=options.fleet or options.fixes), None


def _dask() -> tuple[Any, Any]:
    """The engine and its workers, which need the extra: MissingToolError says how to get it."""
    try:
        from builder.fleet import engine, workers
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("dask", "distributed"):
            raise
        raise MissingToolError("a fleet needs Dask: pip install 'bespoke-livepatch[fleet]'") from error
    return engine, workers


def _show(options: argparse.Namespace, output: Output, plan: Plan) -> int:
    found = plan.estimate(_dask()[1].local_workers() if options.workers is None else options.workers)
    if output.json:
        output.document(found)
    elif output.plain:
        output.out.print(render_plan(found))
    return 0


def _simulate(options: argparse.Namespace, output: Output, plan: Plan | None) -> int:
    if options.simulate < 1:
        raise UsageError("--simulate takes a number of workers from 1 on")
    _dask()
    from builder.fleet.simulate import simulated, synthetic

    if plan is None:
        match = re.fullmatch(r"(\d+)x(\d+)", options.matrix)
        if match is None or not int(match[1]) or not int(match[2]):
            raise UsageError(f"--matrix takes FIXESxKERNELS, such as 1000x60, not {options.matrix!r}")
        load = synthetic(int(match[1]), int(match[2]))
    else:
        from builder.fleet.simulate import load_of

        load = load_of(plan)
    found = simulated(load, options.simulate)
    if output.json:
        output.document(found.as_json())
    elif output.plain:
        output.out.print(render_simulation(found.as_json()))
    return 0


def _run(options: argparse.Namespace, output: Output, plan: Plan, store: Store, packing: Packing) -> int:
    engine, workers = _dask()
    how = workers.Crew(options.scheduler, options.workers, options.retries, options.timeout)
    workers.check_crew(how)
    started = time.monotonic()
    results: list[CellResult] = []
    packages: list[dict[str, Any]] = []
    missing = "is not finished"
    try:
        with (
            workers.crew(how) as client,
            _shown(output, plan, len(client.scheduler_info(n_workers=-1)["workers"])) as told,
        ):
            for result in engine.run_fleet(plan, store, client, how, told):
                results.append(result)
        missing = ""
        packages = write_packages(packing, results, options.output)
    finally:
        # Also of what an interrupt leaves: everything that is done has its place.
        if results:
            index = index_of(plan, results, time.monotonic() - started, packages)
            store.finish(index)
            report = write_report(index, options.output / "report")
            if output.plain:
                _tell(output, results, report, len(packages), missing)
    counts = counted(results)
    if output.json:
        _line({"event": "end", "counts": counts, "seconds": index["seconds"], "report": str(report)})
    return exit_status(counts)


def _tell(output: Output, results: Sequence[CellResult], report: Path, packages: int, missing: str) -> None:
    counts = counted(results)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    output.out.print(one_line(f"{len(results)} cells{f' (the run {missing})' if missing else ''}: {told}"))
    for result in results:
        if result.row.status in (1, 2):
            words = f" {result.kernel}/{result.fix}: {result.detail}"
            output.out.print(one_line((f"{result.verdict:<10}", VERDICTS[result.verdict].style), words))
    if packages:
        output.out.print(one_line(f"{packages} packages in {report.parent.parent / FOLDER}"))
    output.out.print(one_line(f"report: {report}", style="dim"))


@contextmanager
def _shown(output: Output, plan: Plan, workers: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Who is told what happens: lines of JSON, a table on a terminal, or a line for each cell."""
    if output.json:
        yield _line
    elif output.quiet:
        yield lambda row: None
    elif not output.err.is_terminal:
        yield lambda row: _plain_line(output, row)
    else:
        # Here, for it is slow to import.
        from rich.live import Live

        board = Board(plan, workers)
        size = output.err.size

        with Live(
            get_renderable=lambda: board.drawn(size.width, size.height), console=output.err, refresh_per_second=2
        ):
            yield board.told


def _line(row: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def _plain_line(output: Output, row: Mapping[str, Any]) -> None:
    if row["event"] == "cell":
        output.err.print(one_line(f"{row['verdict']:<10} {row['kernel']}/{row['fix']} {row['detail']}"))
    elif "why" in row:
        output.err.print(one_line(trouble_line(row)))

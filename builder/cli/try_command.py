"""`bespoke try X.ko --kernel K`."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli.common import Output, add_kernel, named_paths, open_kernel
from builder.errors import UsageError
from builder.image.guest import MachineConfig
from builder.image.trial import Step, TrialPlan, trial
from builder.report.trial import render_trial, step_line


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("module", type=Path, metavar="X.ko", help="the livepatch")
    add_kernel(parser)
    parser.add_argument(
        "--run",
        dest="commands",
        action="append",
        default=[],
        metavar="CMD",
        help="run this before, with and after the patch",
    )
    parser.add_argument("--load", action="append", default=[], metavar="MODULE", help="load this module first")
    parser.add_argument("--late-load", action="store_true", help="load the patched modules after the livepatch")
    parser.add_argument("--cpu", default="max", metavar="MODEL", help="QEMU's CPU model (default: max)")
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="number of CPUs")
    parser.add_argument("--kaslr", action="store_true", help="boot the bzImage, at a random address")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds for each step")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if options.timeout <= 0:
        raise UsageError("--timeout takes a number of seconds above 0")
    plan = TrialPlan(
        commands=tuple(options.commands),
        objects=named_paths(options.object),
        load=tuple(options.load),
        late_load=options.late_load,
        timeout=options.timeout,
        config=MachineConfig(cpu=options.cpu, smp=options.smp, kaslr=options.kaslr),
    )
    kernel = open_kernel(options)
    with output.progress() as shown:

        def tell(event: Step | str) -> None:
            if isinstance(event, str):
                shown.step(event)
            else:
                shown.line(step_line(event))

        report = trial(options.module, kernel, plan, progress=tell)
    if output.json:
        output.document(report.as_json())
    elif output.plain:
        output.out.print(render_trial(report, verbose=output.verbose, steps=not output.err.is_terminal))
    elif report.failure:
        output.error(report.failure)
    return 0 if report.ok else 1

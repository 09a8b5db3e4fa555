"""`bespoke status [--repair]`: the livepatches of this kernel, their versions and the probes in them."""

from __future__ import annotations

import argparse

from builder.cli.common import Output
from builder.cli.live import add_live, live, need_root
from builder.image.machine import ThisMachine
from builder.operate.survey import survey
from builder.report.status import render_status


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repair",
        action="store_true",
        help="finish or take back what was interrupted, and look after livepatches of ours that insmod has loaded",
    )
    add_live(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    done: list[str] = []
    if options.repair:
        with live(options, output) as here:
            done = here.repair()
    try:
        status = survey(ThisMachine(), options.state)
    except PermissionError:  # probes and the stacks of tasks are root's to read
        need_root(options.command)
        raise
    if output.json:
        output.document(status.as_json() | ({"repaired": done} if options.repair else {}))
    elif output.plain:
        output.out.print(render_status(status, done))
    return 0

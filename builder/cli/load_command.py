"""`bespoke load X.ko`: on the kernel that this runs on."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.acquire.bounds import read_input
from builder.cli.common import Output
from builder.cli.live import add_live, live
from builder.errors import UsageError
from builder.report.status import render_outcome


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("module", type=Path, metavar="X.ko", help="a livepatch that bespoke has built")
    add_live(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if not options.module.is_file():
        raise UsageError(f"there is no file {options.module}")
    with live(options, output) as here:
        outcome = here.load(read_input(options.module), str(options.module))
    if output.json:
        output.document(outcome.as_json())
    elif output.plain:
        output.out.print(render_outcome(outcome, "loaded"))
    return 0

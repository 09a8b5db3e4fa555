"""`bespoke unload NAME`: disable a livepatch, wait for the transition, take it out."""

from __future__ import annotations

import argparse

from builder.cli.common import Output
from builder.cli.live import add_live, live
from builder.report.status import render_outcome


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the livepatch's module")
    add_live(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    with live(options, output) as here:
        outcome = here.unload(options.name.removesuffix(".ko").replace("-", "_"))
    if output.json:
        output.document(outcome.as_json())
    elif output.plain:
        output.out.print(render_outcome(outcome, "unloaded"))
    return 0

"""`bespoke unload NAME`, or `--all`: disable a livepatch, wait for the transition, take it out."""

from __future__ import annotations

import argparse

from builder.cli.common import Output
from builder.cli.live import add_live, live
from builder.errors import UsageError
from builder.report.status import render_outcome


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the livepatch's module")
    parser.add_argument("--all", action="store_true", help="all that bespoke has loaded, the newest first")
    add_live(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if options.all == (options.name is not None):
        raise UsageError("say the NAME of a livepatch, or --all")
    outcomes = []
    with live(options, output) as here:
        found = here.unload_all() if options.all else iter([here.unload(_module(options.name))])
        for outcome in found:  # one by one: where one stays, it is said which are out
            outcomes.append(outcome)
            if output.plain:
                output.out.print(render_outcome(outcome, "unloaded"))
    if output.json:
        rows = [outcome.as_json() for outcome in outcomes]
        output.document({"unloaded": rows} if options.all else rows[0])
    elif output.plain and not outcomes:
        output.out.print("bespoke has loaded no livepatch here")
    return 0


def _module(name: str) -> str:
    return name.removesuffix(".ko").replace("-", "_")

"""`bespoke probe FUNC+OFF [FETCHARG...]`: a kprobe event that counts whichever version of the function runs."""

from __future__ import annotations

import argparse

from builder.cli.common import Output
from builder.cli.live import need_root
from builder.image.machine import ThisMachine
from builder.operate.planting import ProbeOptions, probe
from builder.operate.trail import STATE
from builder.report.status import render_planting


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="[MODULE:]FUNC[+OFF]", help="a place in the original function")
    parser.add_argument("fetch", nargs="*", metavar="FETCHARG", help="as kprobe_events takes them")
    parser.add_argument("--name", default="", metavar="[GROUP/]EVENT", help="the event's name (default: the place)")
    parser.add_argument("--return", dest="is_return", action="store_true", help="at the function's return")
    parser.add_argument("--disabled", action="store_true", help="plant it, but do not enable it")
    parser.add_argument("--state", default=STATE, metavar="DIR", help=f"the recorded state (default: {STATE})")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    need_root(options.command)
    host = ThisMachine()
    with host.lock(f"{options.state}/lock"):
        planting = probe(
            host,
            options.place,
            ProbeOptions(tuple(options.fetch), options.name, options.is_return, not options.disabled),
            state=options.state,
        )
    if output.json:
        output.document(planting.as_json())
    elif output.plain:
        output.out.print(render_planting(planting))
    return 0 if planting.counts else 1

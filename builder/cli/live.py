"""What the commands that change this kernel share: the recorded state, the time-out, progress."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from builder.cli.common import Output
from builder.errors import UsageError
from builder.image.machine import ThisMachine
from builder.operate.live import Live
from builder.operate.trail import STATE


def add_live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds for a transition, then everything is taken back (default: 60)",
    )
    parser.add_argument("--state", default=STATE, metavar="DIR", help=f"the recorded state (default: {STATE})")


@contextmanager
def live(options: argparse.Namespace, output: Output) -> Iterator[Live]:
    """This machine's kernel under its lock; the step that runs is shown."""
    if options.timeout <= 0:
        raise UsageError("--timeout takes a number of seconds above 0")
    host = ThisMachine()
    with host.lock(f"{options.state}/lock"), output.progress() as shown:
        yield Live(host, state=options.state, timeout=options.timeout, progress=shown.step)

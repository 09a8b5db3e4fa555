"""What the commands that change this kernel share: the recorded state, the time-out, progress."""

from __future__ import annotations

import argparse
import os
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


def need_root(command: str) -> None:
    """UsageError for anybody else, before the kernel, or a directory that is root's, refuses something less plain."""
    if os.geteuid() != 0:
        raise UsageError(f"`bespoke {command}` needs root: run it with sudo, or as root")


@contextmanager
def live(options: argparse.Namespace, output: Output) -> Iterator[Live]:
    """This machine's kernel under its lock; the step that runs is shown."""
    if options.timeout <= 0:
        raise UsageError("--timeout takes a number of seconds above 0")
    need_root(options.command)
    host = ThisMachine()
    with host.lock(f"{options.state}/lock"), output.progress() as shown:
        yield Live(host, state=options.state, timeout=options.timeout, progress=shown.step)

"""Command line only: `bespoke`, or `python -m builder`."""

from __future__ import annotations

import gc
import signal
import sys
from typing import Final

_ALLOCATIONS: Final = 200_000
"""Objects made before the collector looks for circles: a comparison makes as many, and most live to its end."""


def collect_seldom() -> None:
    """Let the collector look for circles as seldom as suits what the commands make."""
    gc.set_threshold(_ALLOCATIONS, *gc.get_threshold()[1:])


def main() -> int:
    """The exit status: 0 done, 1 refused, 2 bad usage or unreadable input, 3 nothing changed."""
    collect_seldom()
    # An interrupt ends the process without a word until all is imported; it would be a traceback, or an abort.
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from builder.cli import run

    status = run(sys.argv[1:], ready=lambda: signal.signal(signal.SIGINT, usual))
    gc.freeze()  # the process ends: what it has made need not be searched for circles first
    return status


if __name__ == "__main__":
    sys.exit(main())

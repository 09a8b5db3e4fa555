"""Command line only: `bespoke`, or `python -m builder`."""

from __future__ import annotations

import sys

from builder.cli import run


def main() -> int:
    """The exit status: 0 done, 1 refused, 2 bad usage or unreadable input, 3 nothing changed."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""How a campaign, a module that is run by hand and takes long, says what it has found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from builder.errors import BespokeError


def told(wrong: Sequence[str], summary: str) -> int:
    """Print what differs, then the `summary` and how much does; the exit status."""
    print("\n".join(wrong))
    print(f"{summary} {len(wrong)} differ")
    return 1 if wrong else 0


def run(main: Callable[[], int]) -> NoReturn:
    """End with the status of `main`, or with the error that it could not go on for."""
    try:
        sys.exit(main())
    except BespokeError as error:
        sys.exit(f"error: {error}")

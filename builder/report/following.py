"""What to run next, as a command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def next_command(path: Path, kernel: str, objects: Sequence[str] = ()) -> str:
    """What to run once a module is built; `kernel` and `objects` as `--kernel` and `--object` had them."""
    given = [word for row in objects for word in ("--object", row)]
    return shlex.join(["bespoke", "try", str(path), "--kernel", kernel, *given])

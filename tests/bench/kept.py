"""The last runs of the benchmarks, as a table of the documentation: a run is held against the one before it."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.conftest import ROOT

PAGE: Final = ROOT / "docs/speed.md"
RUNS: Final = 8
"""So many runs stay in the table, the newest first."""

Figures = Mapping[str, float]
"""What a command is called -> seconds of CPU."""

_HEADS: Final = ("date", "machine", "load")


def last(page: Path = PAGE) -> Figures:
    """The figures of the newest run in the table; none where there is no run."""
    rows = _rows(page.read_text()) if page.is_file() else []
    if not rows:
        return {}
    return {name: float(cell) for name, cell in rows[0].items() if name not in _HEADS}


def keep(seconds: Figures, page: Path = PAGE, *, machine: str = "", load: float | None = None) -> None:
    """Put a run on top of the table, and leave the oldest out; load is how many processes wanted to run then."""
    busy = os.getloadavg()[0] if load is None else load
    head = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": (machine or _machine()).replace("|", "/"),
        "load": f"{busy:.1f}",
    }
    text = page.read_text()
    rows = [head | {name: f"{value:.3f}" for name, value in seconds.items()}, *_rows(text)][:RUNS]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([row.get(name, "") for name in names] for row in rows)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    page.write_text(f"{text.partition('| date')[0].rstrip()}\n\n{table}\n")


def _rows(text: str) -> list[dict[str, str]]:
    """The rows of the page's table, by the heads of its columns."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [{name: cell for name, cell in zip(lines[0], cells, strict=True) if cell} for cells in lines[2:]]


def _machine() -> str:
    """The processor, how many CPUs there are, and the Python."""
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} CPUs, Python {platform.python_version()}"

"""What the tests have run of the package, folder by folder: `tox -e coverage` ends with it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path, PurePosixPath

from coverage import Coverage
from rich import print
from rich.table import Table

PACKAGE = "builder"


def folder(path: str) -> str:
    """The part of the package that a file belongs to: two levels of folders."""
    parts = PurePosixPath(path).parent.parts
    return "/".join(parts[:3]) + "/"


def counts(coverage: Coverage) -> list[tuple[str, Counter[str]]]:
    """Each folder with its statements and branches, and how many of them were run; the package at the end."""
    with tempfile.TemporaryDirectory() as place:
        coverage.json_report(outfile=str(Path(place) / "report.json"))
        files = json.loads((Path(place) / "report.json").read_text())["files"]
    rows: dict[str, Counter[str]] = {}
    for path, found in sorted(files.items()):
        numbers = Counter({key: value for key, value in found["summary"].items() if isinstance(value, int)})
        for name in (folder(path), "all"):
            rows.setdefault(name, Counter()).update(numbers)
    whole = rows.pop("all")
    return [*sorted(rows.items()), (PACKAGE, whole)]


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def main() -> None:
    coverage = Coverage()
    coverage.load()
    table = Table("folder", box=None)
    for column in ("statements", "run", "branches", "taken"):
        table.add_column(column, justify="right")
    for name, row in counts(coverage):
        statements, branches = row["num_statements"], row["num_branches"]
        run, taken = share(row["covered_lines"], statements), share(row["covered_branches"], branches)
        table.add_row(name, str(statements), run, str(branches), taken)
    print(table)


if __name__ == "__main__":
    main()

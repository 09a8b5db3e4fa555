"""The report of a fleet: `index.html` with the matrix, and for each fix a page on which every cell has its place.

Both are made of the document alone (`document.index_of`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.acquire.whole import write_whole
from builder.fleet.orders import VERDICTS, CellVerdict
from builder.report.pages import page

SCRIPTS = ("report.js", "fleet.js")


@dataclass(frozen=True, slots=True)
class FixRow:
    """A fix in the matrix: a verdict for each kernel, None where there is no cell; `groups` are kernels that it is
    alike for, each with what became of it there."""

    name: str
    subject: str
    cve: str
    cells: tuple[CellVerdict | None, ...]
    groups: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def differs(self) -> bool:
        """Whether it came to something else for some kernels."""
        return len(self.groups) > 1


@dataclass(frozen=True, slots=True)
class Repeated:
    """A refusal by its code, with the number of cells, and the fixes and kernels that it was met for."""

    code: str
    cells: int
    fixes: tuple[str, ...]
    kernels: tuple[str, ...]
    advice: str


def write_report(index: Mapping[str, Any], folder: Path) -> Path:
    """Write all pages into `folder`, the first one last; its path."""
    by_fix: dict[str, dict[str, Mapping[str, Any]]] = {}
    for cell in index["cells"]:
        by_fix.setdefault(cell["fix"], {})[cell["kernel"]] = cell
    kernels = [kernel["name"] for kernel in index["kernels"]]
    rows = []
    for fix in index["fixes"]:
        cells = by_fix.get(fix["name"], {})
        row = FixRow(
            fix["name"],
            fix["subject"],
            fix["cve"],
            tuple(VERDICTS[cells[name]["verdict"]] if name in cells else None for name in kernels),
            _groups(kernels, cells),
        )
        rows.append(row)
        text = page(
            "fleet-fix.html.j2", scripts=SCRIPTS[:1], fix=row, cells=_in_order(kernels, cells), verdicts=VERDICTS
        )
        write_whole(folder / "fixes" / f"{row.name}.html", text)
    text = page(
        "fleet.html.j2",
        scripts=SCRIPTS,
        index=index,
        kernels=[{**kernel, "counts": _counts(index, kernel["name"])} for kernel in index["kernels"]],
        rows=rows,
        repeated=repeated(index["cells"]),
        verdicts=[row for row in VERDICTS.values() if index["counts"].get(row.name)],
        phases=_phases(index["cells"]),
    )
    write_whole(folder / "index.html", text)
    return folder / "index.html"


def _in_order(kernels: Sequence[str], cells: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [cells[name] for name in kernels if name in cells]


def _groups(
    kernels: Sequence[str], cells: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """CellVerdict, what it is about, and the kernels of which both are the same."""
    alike: dict[tuple[str, str], list[str]] = {}
    for cell in _in_order(kernels, cells):
        alike.setdefault((cell["verdict"], _about(cell)), []).append(cell["kernel"])
    return tuple((verdict, about, tuple(names)) for (verdict, about), names in alike.items())


def _about(cell: Mapping[str, Any]) -> str:
    """What tells two cells of one verdict apart: the functions of a module, the codes of refusals, the reason."""
    if cell["verdict"] == "shipped":
        return ", ".join(sorted(cell["functions"]))
    codes = sorted({f"{row['code']}: {row['symbol']}" for row in cell["refusals"]})
    return "; ".join(codes) or str(cell["detail"])


def repeated(cells: Sequence[Mapping[str, Any]]) -> list[Repeated]:
    """The refusals by their code, those first that most cells have met."""
    found: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for cell in cells:
        for row in cell["refusals"]:
            found.setdefault(row["code"], []).append((cell, row))
    rows = [
        Repeated(
            code,
            len({(cell["fix"], cell["kernel"]) for cell, _ in met}),
            tuple(dict.fromkeys(cell["fix"] for cell, _ in met)),
            tuple(dict.fromkeys(cell["kernel"] for cell, _ in met)),
            str(met[0][1]["advice"]),
        )
        for code, met in found.items()
    ]
    return sorted(rows, key=lambda row: (-row.cells, row.code))


def _counts(index: Mapping[str, Any], kernel: str) -> Mapping[str, int]:
    return Counter(cell["verdict"] for cell in index["cells"] if cell["kernel"] == kernel)


def _phases(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, float]]:
    """Each phase with the number of cells that went through it and their seconds together."""
    seconds: dict[str, list[float]] = {}
    for cell in cells:
        for name, took in cell["phases"].items():
            seconds.setdefault(name, []).append(took)
    return [(name, len(took), round(sum(took), 1)) for name, took in seconds.items()]

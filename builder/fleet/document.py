"""What came of a fleet, as one document: `out/index.json`, and what the report is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from builder import __version__
from builder.fleet.orders import VERDICTS, CellResult
from builder.fleet.plan import Plan


def index_of(
    plan: Plan, results: Sequence[CellResult], seconds: float, packages: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The document: fixes and kernels in their order, a row for each cell, counts of verdicts, the packages."""
    order = {kernel.name: number for number, kernel in enumerate(plan.kernels)}
    fixes = {fix.name: number for number, fix in enumerate(plan.fleet.fixes)}
    rows = sorted(results, key=lambda row: (order[row.kernel], fixes.get(row.fix, len(fixes))))
    cumulative = plan.fleet.demands.cumulative
    together = [{"name": cumulative, "subject": "all fixes that the kernel can have, in one module", "cve": ""}]
    return {
        "bespoke": __version__,
        "kernels": [
            {"name": kernel.name, "release": kernel.release, "version": kernel.version, "sha256": kernel.sha256}
            for kernel in plan.kernels
        ],
        "fixes": [
            *({"name": fix.name, "subject": fix.subject, "cve": fix.cve} for fix in plan.fleet.fixes),
            *(together if cumulative else []),
        ],
        "counts": counted(results),
        "seconds": round(seconds, 1),
        "cells": [row.as_json() for row in rows],
        "packages": list(packages),
    }


def counted(results: Sequence[CellResult]) -> dict[str, int]:
    """How often each verdict came, in the order of reports."""
    counts = Counter(row.verdict for row in results)
    return {name: counts[name] for name in VERDICTS if counts[name]}


def exit_status(counts: Mapping[str, int]) -> int:
    """That of the worst verdict: what could not be found out, what was refused, what ships, nothing to do."""
    statuses = {VERDICTS[name].status for name in counts}
    return next((status for status in (2, 1, 0) if status in statuses), 3)

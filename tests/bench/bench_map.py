"""How much of the changed functions of all shared pairs is mapped, instruction by instruction, and how fast."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from builder.compare.instruction_map import instruction_map
from builder.compare.unit import unit
from tests.compare.test_instruction_map import pairs
from tests.conftest import data_root


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    total: Counter[str] = Counter()
    mapped: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for place, comparison in pairs(data_root()):
        group = _group(place)
        for atom in comparison.changed:
            old = comparison.correlation.twins[atom]
            lines = unit(comparison, comparison.old, (old, *comparison.old_children.get(old, ())))
            real = {(line.part, line.offset) for line in lines if not line.insn.is_nop}
            started = time.process_time_ns()
            rows = instruction_map(comparison, atom).pairs
            spent[group] += time.process_time_ns() - started
            functions[group] += 1
            total[group] += len(real)
            mapped[group] += sum((row.old_part, row.old_offset) in real for row in rows)
    if not total:
        console.print(f"not measured: no pairs in {data_root()} (BESPOKE_DATA)", markup=False)
        return 0
    table = Table(title="Instructions of changed functions that are mapped", box=None, title_justify="left")
    for title in ("pairs", "functions", "instructions", "mapped", "share", "ms each"):
        table.add_column(title, justify="left" if title == "pairs" else "right")
    for counter in (total, mapped, functions, spent):
        counter["all"] = sum(counter.values())
    for group, count in functions.items():
        share = mapped[group] / total[group]
        table.add_row(
            group,
            str(count),
            f"{total[group]:,}",
            f"{mapped[group]:,}",
            f"{share:.1%}",
            f"{spent[group] / 1e6 / count:.1f}",
        )
    console.print(table)
    return 0


def _group(place: Path) -> str:
    return next((name for name in ("conformance", "corpus", "running-6.1.0-50") if name in place.parts), "others")


if __name__ == "__main__":
    sys.exit(main())

"""How long the simulated loader takes for all modules of a release, every pass included; beside it angr's cle.

`cle.Loader` reads a module and applies its basic relocations, against nothing:
no kernel, no dependencies, no passes. It is measured on the largest modules and
on a sample, since all would take it hours.
"""

from __future__ import annotations

import gc
import importlib
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from builder.acquire.packages import fetch_kernel, newest_kernel
from builder.binary.kernel import Kernel
from builder.errors import BespokeError
from builder.image.derive import derive_state
from builder.load.boot import boot
from builder.load.loader import load_module
from builder.preflight.fidelity import choose, in_order

SERIES = "6.1"
CPU = "max"
SAMPLE = 30
FACTOR = 20
"""How much faster than cle the loader is meant to be."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector, whose time goes by what else is in memory: four thousand modules."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def load_all(kernel: Kernel) -> tuple[dict[str, float], dict[str, bytes], int]:
    """CPU seconds by module, reading included, the modules' bytes, and how many of them have been refused."""
    simulated = boot(kernel, derive_state(kernel, CPU))
    modules = in_order(kernel, choose(kernel, None))
    spent: dict[str, float] = {}
    refused = 0
    for module in modules:
        with uncollected():
            started = time.process_time()
            try:
                load_module(simulated, module.data)
            except BespokeError:
                refused += 1  # duplicates of a symbol that another module exports, as the kernel refuses them
            spent[module.name] = time.process_time() - started
    return spent, {module.name: module.data for module in modules}, refused


def cle_loader() -> Callable[[Path], Any] | None:
    """cle.Loader for one file, None where it is not installed."""
    try:
        cle: Any = importlib.import_module("cle")
    except ImportError:
        return None
    logging.getLogger("cle").setLevel(logging.CRITICAL)
    return lambda path: cle.Loader(str(path), auto_load_libs=False)


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        kernel = Kernel.open(fetch_kernel(newest_kernel(SERIES)).image)
    except BespokeError as error:
        console.print(f"not measured: {error}", markup=False)
        return 0
    with console.status("loading all modules"):
        spent, content, refused = load_all(kernel)
    size = sum(map(len, content.values()))
    total, median = sum(spent.values()), 1e3 * statistics.median(spent.values())
    console.print(
        f"bespoke, {kernel.release} on {CPU}: {len(spent)} modules, {size / 1e6:.0f} MB: "
        f"{total:.1f} s of CPU, median {median:.1f} ms; {refused} refused",
        markup=False,
    )
    other = cle_loader()
    if other is None:
        console.print("cle is not installed: pip install cle (or make bench)")
        return 0
    largest = sorted(content, key=lambda name: len(content[name]))[-3:][::-1]
    sample = sorted(set(random.Random(1).sample(sorted(content), SAMPLE)) - set(largest))
    table = Table(title="CPU seconds", box=None, title_justify="left")
    for title in ("module", "MB", "bespoke", "cle", "times"):
        table.add_column(title, justify="left" if title == "module" else "right")

    def row(title: str, names: list[str]) -> float:
        mine, theirs = sum(spent[name] for name in names), 0.0
        for name in names:
            with console.status(f"cle: {name}"), tempfile.TemporaryDirectory(prefix="bespoke-bench-") as folder:
                path = Path(folder) / f"{name}.ko"
                path.write_bytes(content[name])
                with uncollected():
                    started = time.process_time()
                    other(path)
                    theirs += time.process_time() - started
        megabytes = sum(len(content[name]) for name in names) / 1e6
        table.add_row(title, f"{megabytes:.1f}", f"{mine:.3f}", f"{theirs:.2f}", f"{theirs / mine:.0f}")
        return theirs / mine

    factors = [row(name, [name]) for name in largest] + [row(f"{len(sample)} drawn", sample)]
    console.print(table)
    verdict = "met" if min(factors) >= FACTOR else "missed"
    console.print(f"at least {min(factors):.0f} times as fast (the bar: {FACTOR}: {verdict})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

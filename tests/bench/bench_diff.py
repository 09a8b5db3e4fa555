"""How long a comparison takes: the shared pairs one by one, then how time and memory grow with sections."""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from builder.binary import ObjectFile, read_object
from builder.compare import compare
from builder.compare.structs import struct_changes
from tests.conftest import data_root

REPEATS = 5
GROWTH = (250, 500, 1000, 2500, 5000)
"""Numbers of functions of the synthetic objects; each has four sections."""


def pairs(root: Path) -> Iterator[tuple[str, Path]]:
    for kind in ("conformance/x86_64", "corpus/pairs", "running-6.1.0-50/pairs"):
        for place in sorted((root / kind).glob("*")):
            yield kind.partition("/")[0], place


def diff(place: Path) -> None:
    """What `bespoke diff` does with one pair before it reports."""
    old, new = read_object(place / "orig.o"), read_object(place / "patched.o")
    comparison = compare(old, new)
    if comparison.changed:
        struct_changes(old, new)


def best(work: Callable[[], object]) -> float:
    """The least of some runs in milliseconds of CPU time: what others do on the machine is left out."""
    times = []
    for _ in range(REPEATS):
        gc.collect()
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1e3)
    return min(times)


def peak(work: Callable[[], object]) -> float:
    """MiB of Python objects alive at once."""
    gc.collect()
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / (1 << 20)


def synthetic(functions: int, place: Path) -> Path:
    """An object of `functions` functions, each with a datum that points back, all in sections of their own."""
    rows = []
    for k in range(functions):
        rows.append(
            f'.section .text.f{k},"ax",@progbits\n.globl f{k}\n.type f{k},@function\nf{k}:\n'
            f" movq d{k}(%rip), %rax\n call f{(k + 1) % functions}\n cmpl ${k}, %edi\n jne 1f\n incl %eax\n1: ret\n"
            f".size f{k}, .-f{k}\n"
            f'.section .data.d{k},"aw",@progbits\n.type d{k},@object\n.size d{k}, 8\nd{k}: .quad f{k}\n'
        )
    source, target = place / "many.s", place / f"many{functions}.o"
    source.write_text("".join(rows))
    subprocess.run(["as", "-o", target, source], check=True)
    return target


def growth() -> None:
    print("\nHow a comparison grows (synthetic, every function in four sections; one function differs)")
    print(f"{'sections':>10}{'ms':>9}{'us/section':>12}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as name:
        for functions in GROWTH:
            data = synthetic(functions, Path(name)).read_bytes()

            def work(data: bytes = data) -> ObjectFile:
                old = read_object(data)
                compare(old, read_object(data.replace(b"\xff\xc0\xc3", b"\xff\xc8\xc3", 1)))
                return old

            sections = len(work().sections)
            spent = best(work)
            print(f"{sections:10}{spent:9.1f}{spent / sections * 1e3:12.1f}{peak(work):10.1f}")


def trees(root: Path) -> None:
    """All shared pairs by one command, as a user runs it."""
    with tempfile.TemporaryDirectory() as name:
        sides = [Path(name) / side for side in ("old", "new")]
        for kind, place in pairs(root):
            for side, file in zip(sides, ("orig.o", "patched.o"), strict=True):
                target = side / kind / f"{place.name}.o"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(place / file)
        command = [sys.executable, "-m", "builder", "diff", *map(str, sides), "-j2", "--json"]
        start = time.monotonic()
        document = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
        spent = time.monotonic() - start
        count = len(json.loads(document)["pairs"])
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"\nbespoke diff OLD_TREE NEW_TREE -j2: {count} pairs in {spent:.1f} s of real time, "
            f"{spent / count * 1e3:.0f} ms each, {most:.0f} MiB at most in one process"
        )


def main() -> int:
    root = data_root()
    rows: list[tuple[float, str, str, float]] = []
    for kind, place in pairs(root):
        work = partial(diff, place)
        rows.append((best(work), kind, place.name, peak(work)))
    if not rows:
        print(f"no shared pairs at {root} (set BESPOKE_DATA)", file=sys.stderr)
    else:
        print(f"One pair: read, compare, structure layouts (CPU time, best of {REPEATS})")
        print(f"{'set':18}{'pairs':>6}{'median ms':>11}{'p90 ms':>9}{'max ms':>9}{'peak MiB':>10}  slowest")
        for kind in (*dict.fromkeys(k for _, k, _, _ in rows), "all"):
            some = sorted(r for r in rows if kind in ("all", r[1]))
            times = [r[0] for r in some]
            print(
                f"{kind:18}{len(some):6}{statistics.median(times):11.1f}{times[int(len(times) * 0.9)]:9.1f}"
                f"{times[-1]:9.1f}{max(r[3] for r in some):10.1f}  {some[-1][2]}"
            )
        trees(root)
    growth()
    return 0


if __name__ == "__main__":
    sys.exit(main())

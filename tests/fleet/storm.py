"""A fleet on a scheduler and three workers, each with a cache of its own, while everything happens to them.

    python -m tests.fleet.storm OUT [--every S] [--like INDEX.json] [KERNEL ...]

The fixes are those of `campaign`, in OUT/fixes. Of two workers one is killed every S seconds (SIGKILL, in turn); the
disk of the third is full; when half of the cells are done the client is killed, and `--resume` does the rest. Told is
what is not as it should be: a verdict, a module that is another than that of an earlier run (`--like`), a cell that is
lost or doubled, a file that nobody asked for. The sources are copied from this machine's cache, where they must be.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from builder.acquire.cache import cache_root
from builder.fleet.spec import fixes_of
from tests.fleet.campaign import KERNELS, summary

SMALL: Final = "64m"
"""What a source has no room in."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.storm", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("kernels", nargs="*", default=KERNELS)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--like", type=Path)
    options = parser.parse_intermixed_args()
    out = options.out / "storm"
    cells = len(options.kernels) * len(fixes_of(options.out / "fixes"))
    with ExitStack() as stack:
        address, nannies = stack.enter_context(cluster(options.out / "cluster", options.kernels))
        kills: Counter[str] = Counter()
        over = threading.Event()
        killer = threading.Thread(target=kill, args=(nannies, options.every, over, kills))
        killer.start()
        stack.callback(killer.join)
        stack.callback(over.set)
        words = [sys.executable, "-m", "builder", "fleet", "-o", f"{out}", "--scheduler", address, "--json"]
        words += ["--retries", "50"]
        what = ["--fixes", f"{options.out / 'fixes'}", "--kernels", *options.kernels]
        started = time.monotonic()
        first = run([*words, *what], options.out / "first.jsonl", most=cells // 2)
        second = run([*words, "--resume"], options.out / "second.jsonl")
        print(f"took {time.monotonic() - started:.0f} s; killed: {dict(kills)}")
    wrong = told(first, second)
    index = json.loads((out / "index.json").read_text())
    wrong |= summary(index, options.kernels[0])
    return int(wrong | lost_or_doubled(index, out, cells) | unlike(index, options.like))


@contextmanager
def cluster(place: Path, kernels: list[str]) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and three workers with nannies: the address, and the nannies of the two that have room."""
    place.mkdir(parents=True, exist_ok=True)
    file, full = place / "scheduler.json", place / "full"
    file.unlink(missing_ok=True)
    dask = [sys.executable, "-m", "dask"]
    with ExitStack() as stack:
        stack.enter_context(process([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                     "--scheduler-file", f"{file}"], place / "scheduler.log"))  # fmt: skip
        full.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", full], check=True)
        stack.callback(lambda: subprocess.run(["umount", "-l", full], check=False))
        nannies = []
        for name in ("one", "two", "full"):
            cache = place / name
            if name != "full":
                seed(cache, kernels)
            words = ["worker", "--scheduler-file", f"{file}", "--nthreads", "1", "--resources", "compile=1"]
            words += ["--memory-limit", "0", "--no-dashboard", "--name", name, "--local-directory", f"{place / 'dask'}"]
            nannies.append(
                stack.enter_context(process([*dask, *words], place / f"{name}.log", BESPOKE_CACHE=f"{cache}"))
            )
        while not file.exists():
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], nannies[:2]


@contextmanager
def process(words: list[str], log: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as said:
        started = subprocess.Popen(words, stdout=said, stderr=said, env={**os.environ, **env})
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def seed(cache: Path, kernels: list[str]) -> None:
    """What preparing the kernels would make; nothing that was compiled."""
    here = cache_root()
    kinds = ("apt", "toolsets", "kernels")
    names = [here / kind for kind in kinds if (here / kind).exists()]
    for kernel in kernels:
        names += [*(here / "unpacked").glob(f"*-{kernel}_*"), *(here / "source").glob(f"*_{kernel}_*")]
    for name in names:
        if not (target := cache / name.relative_to(here)).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", name, target], check=True)


def kill(nannies: list[subprocess.Popen[bytes]], every: float, over: threading.Event, kills: Counter[str]) -> None:
    """Kill the worker of each nanny in turn."""
    for number, nanny in itertools.cycle(enumerate(nannies)):
        if over.wait(every):
            return
        found = subprocess.run(["pgrep", "-P", f"{nanny.pid}", "-f", "spawn_main"], capture_output=True, check=False)
        for pid in found.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
            kills[f"worker {number}"] += 1


def run(words: list[str], log: Path, most: int | None = None) -> list[dict[str, Any]]:
    """A client, which is killed after so many cells: the events that it told."""
    events = []
    with log.open("w") as kept, subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        for line in client.stdout:
            kept.write(line)
            kept.flush()
            events.append(json.loads(line))
            if most is not None and sum(row["event"] == "cell" for row in events) >= most:
                client.kill()
                break
    return events


def told(*runs: list[dict[str, Any]]) -> int:
    """Cells that one run told twice."""
    wrong = 0
    for events in runs:
        counts = Counter(row["event"] for row in events)
        cells = Counter((row["kernel"], row["fix"]) for row in events if row["event"] == "cell")
        wrong |= any(count > 1 for count in cells.values())
        print(dict(counts), "cells told twice:", [name for name, count in cells.items() if count > 1])
    return wrong


def lost_or_doubled(index: Mapping[str, Any], out: Path, cells: int) -> int:
    """Whether the index has each cell once, and the folder each module of it and nothing else."""
    rows = Counter((cell["kernel"], cell["fix"]) for cell in index["cells"])
    modules = {f"{cell['kernel']}/{cell['fix']}.ko" for cell in index["cells"] if cell["sha256"]}
    there = {str(path.relative_to(out)) for path in out.glob("*/*.ko")}
    hidden = [path for path in out.rglob(".*") if path.name != ".fleet"]
    sums = subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=out, check=False).returncode
    print(f"{len(rows)} cells of {cells}, doubled {len(index['cells']) - len(rows)}, modules {len(there)}, "
          f"not in the index {sorted(there ^ modules)}, left over {hidden}, tried at most "
          f"{max(cell['tries'] for cell in index['cells'])} times")  # fmt: skip
    return int(len(rows) != cells or set(rows.values()) != {1} or there != modules or bool(hidden) or bool(sums))


def unlike(index: Mapping[str, Any], like: Path | None) -> int:
    """Whether a module is another than that of the run before."""
    if like is None:
        return 0
    before = {(cell["kernel"], cell["fix"]): cell["sha256"] for cell in json.loads(like.read_text())["cells"]}
    found = {(cell["kernel"], cell["fix"]): cell["sha256"] for cell in index["cells"]}
    other = [place for place, sha256 in found.items() if before.get(place) != sha256]
    print(f"{sum(map(bool, found.values()))} modules, of which other than before: {other}")
    return int(bool(other))


if __name__ == "__main__":
    if shutil.which("mount") is None or os.geteuid():
        sys.exit("the small disk is a tmpfs, which only root can mount")
    sys.exit(main())

"""`python -m tests.bench [NAME ...] [--keep]`: all benchmarks, or those named (`diff` is `bench_diff`).

With `--keep` what commands cost is kept in `docs/speed.md`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

KEEP = "--keep"


def main(names: list[str]) -> int:
    options = [name for name in names if name == KEEP]
    names = [name for name in names if name != KEEP]
    known = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    return max(
        int(import_module(f"tests.bench.bench_{name}").main(*([options] if name == "commands" else [])))
        for name in names or known
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

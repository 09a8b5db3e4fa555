"""Record all that the product answers, and compare two recordings byte by byte.

    python -m tests.results record DIR [--modules N] [--only PART ...] [-j N] [--code CHECKOUT] [--hash-seed S]
    python -m tests.results compare DIR1 DIR2 [--only PART ...]

`record` writes a part into a directory of its own in DIR, which must not be
there yet; `check` is about the modules that DIR already holds. It exits with 1
where the same command made two modules. `compare` exits with 1 where a document
differs or is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from builder.errors import BespokeError
from tests.conftest import ROOT, data_root
from tests.results.cases import PARTS, Plan, planned
from tests.results.comparison import compare, documents
from tests.results.recording import AGAIN, Recorder, RecordError


def record(recorder: Recorder, parts: Sequence[str], modules: int, jobs: int) -> int:
    """Record parts; the exit status."""
    folder = recorder.folder
    data = data_root()
    if not data.is_dir():
        raise RecordError("no test data (set BESPOKE_DATA)", where=data)
    plan = Plan(data, folder, modules)
    recorder.check_code()
    wanted = planned(parts)
    for part in wanted:
        if (folder / part).exists():
            raise RecordError("is there already", where=folder / part)
    status = 0
    for part in wanted:
        started = time.monotonic()
        cases = PARTS[part](plan)
        prepared = time.monotonic()
        kept = recorder.record(cases, jobs)
        print(
            f"{part}: {len(kept)} documents of {len(cases)} cases in {time.monotonic() - prepared:.0f} s, "
            f"after {prepared - started:.0f} s for what they need",
            flush=True,
        )
        for name in kept:
            if AGAIN in name:
                print(f"{name}: not the same when it was asked for again", flush=True)
                status = 1
    return status


def tell(first: Path, second: Path, parts: Sequence[str] = ()) -> int:
    """Compare parts (none: all), and print what differs; the exit status."""
    for folder in (first, second):
        if not folder.is_dir() or not documents(folder, parts):
            raise RecordError("no recording", where=folder)
    found = compare(first, second, parts)
    for difference in found:
        print(f"{difference.name}: {difference.why}")
        for line in difference.lines:
            print(f"    {line}")
    counts = [len(documents(folder, parts)) for folder in (first, second)]
    print(f"{counts[0]} documents and {counts[1]}: {len(found) or 'none'} differ")
    return 1 if found else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.results", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="record all that the product answers")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("--modules", type=int, default=200, metavar="N", help="a kernel's own modules to check (200)")
    one.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="ask N things at once (1)")
    one.add_argument("--code", type=Path, default=ROOT, metavar="CHECKOUT", help="whose builder/ answers (this one's)")
    one.add_argument("--hash-seed", type=int, default=0, metavar="S", help="another order of Python's sets (0)")
    two = commands.add_parser("compare", help="name each document that differs")
    two.add_argument("first", type=Path, metavar="DIR1")
    two.add_argument("second", type=Path, metavar="DIR2")
    for command in (one, two):
        command.add_argument(
            "--only", nargs="+", default=[], choices=list(PARTS), metavar="PART", help=", ".join(PARTS)
        )
    options = parser.parse_args(arguments)
    try:
        if options.command == "compare":
            return tell(options.first, options.second, options.only)
        recorder = Recorder(options.folder, options.code.resolve(), options.hash_seed)
        return record(recorder, options.only, options.modules, max(1, options.jobs))
    except BespokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

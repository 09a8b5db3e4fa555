"""`bespoke watch [X...]`: the records of loaded marks, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

from builder.cli.common import Output
from builder.cli.live import need_root
from builder.errors import UsageError
from builder.image.marks import MarkTotals
from builder.operate.watching import marked_modules, watching
from builder.report.records import drawn_totals, record_line, render_totals


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("modules", nargs="*", metavar="X", help="modules with marks (default: all)")
    parser.add_argument("--for", dest="seconds", type=float, metavar="S", help="end after so many seconds")
    parser.add_argument("--records", type=int, metavar="N", help="end after N records")
    parser.add_argument("--filter", default="", metavar="COND", help="a filter of trace events, such as 'retval < 0'")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    need_root(options.command)
    if options.seconds is not None and options.seconds <= 0:
        raise UsageError("--for takes a number of seconds above 0")
    known = marked_modules()
    modules = options.modules or list(known)
    if not modules:
        raise UsageError("no module with marks is loaded: bespoke mark makes one, bespoke load loads it")
    until = None if options.seconds is None else time.monotonic() + options.seconds
    seen = 0
    # Ended by `timeout` or a service manager, it leaves everything as it was, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with watching(modules, options.filter) as watch, _drawn(output, modules), suppress(KeyboardInterrupt):
        for record in watch.records(until=until):
            if record is None:
                continue
            if output.json:
                sys.stdout.write(json.dumps(record.as_json()) + "\n")
                sys.stdout.flush()
            else:
                output.out.print(record_line(record))
            seen += 1
            if options.records is not None and seen >= options.records:
                break
    if watch.lost:
        output.error(f"{watch.lost} records came too fast to be read")
    totals = _totals(modules)
    if output.json:
        sys.stdout.write(json.dumps({"totals": [row.as_json() for row in totals], "lost": watch.lost}) + "\n")
    elif output.plain:
        output.out.print(render_totals(totals))
    return 0


def _totals(modules: Sequence[str]) -> list[MarkTotals]:
    return [row for module, rows in marked_modules().items() if module in modules for row in rows]


def _drawn(output: Output, modules: Sequence[str]) -> AbstractContextManager[object]:
    """While what marks add up is drawn, on a terminal; marks that make records are shown by these."""

    def totals() -> list[MarkTotals]:
        return [row for row in _totals(modules) if row.kind != "records"]

    if not output.plain or not output.out.is_terminal or not totals():
        return nullcontext()
    return drawn_totals(output.out, totals)

"""`bespoke cache`."""

from __future__ import annotations

import argparse

from builder.acquire.cache import cache_root
from builder.acquire.room import SIZE, CacheEntry, entries, prune, read_size, wanted_size
from builder.cli.common import Output
from builder.errors import UsageError


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prune",
        nargs="?",
        const="",
        metavar="SIZE",
        help=f"take away what was used least recently until the cache has SIZE (20G, 500M; 0: all that nobody uses "
        f"now); without SIZE, what {SIZE} says",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    limit = wanted_size()
    gone: list[CacheEntry] = []
    if options.prune is None:
        stay = entries()
    else:
        if options.prune:
            limit = read_size(options.prune, "--prune")
        if limit is None:
            raise UsageError(f"--prune takes a size where {SIZE} is not set")
        gone, stay = prune(limit)
    total = sum(entry.size for entry in stay)
    if output.json:
        document = {"cache": str(cache_root()), "size": total, "limit": limit}
        output.document(document | {"entries": [_row(entry) for entry in stay], "pruned": [_row(e) for e in gone]})
    elif output.plain:
        from builder.report.cache import render_cache  # here, for it is slow to import

        output.out.print(render_cache(str(cache_root()), stay, gone, limit, verbose=output.verbose))
    return 0


def _row(entry: CacheEntry) -> dict[str, object]:
    return {"kind": entry.kind, "name": entry.name, "size": entry.size, "used": int(entry.used), "busy": entry.busy}

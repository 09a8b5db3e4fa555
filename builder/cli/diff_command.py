"""`bespoke diff OLD NEW`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from builder.acquire.shifts import Shift
from builder.cli.common import Output, add_allow, add_html, add_source_diff, check_html, source_shifts
from builder.compose.outcome import EXIT_STATUS
from builder.errors import Allowed, UsageError
from builder.pipeline import diff, diff_document


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD", help="the old object, or a tree of objects")
    parser.add_argument("new", type=Path, metavar="NEW", help="the new one")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="compare N pairs of a tree at once")
    parser.add_argument("--function", metavar="NAME", help="show both versions of this function side by side")
    add_source_diff(parser)
    add_allow(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if options.old.is_dir() != options.new.is_dir():
        raise UsageError("OLD and NEW must both be objects or both be directories")
    if options.jobs < 1:
        raise UsageError("-j takes a number from 1 on")
    if options.function and (options.json or options.html or options.old.is_dir()):
        raise UsageError("--function shows one function of two objects, as text")
    allowed = Allowed.parse(options.allow)
    check_html(options.html, options.old, options.new)
    shifts = source_shifts(options.source_diff)
    if options.old.is_dir():
        return _trees(options, output, shifts, allowed)
    if options.function:
        from builder.report.function import render_function

        found = diff(options.old, options.new, shifts=shifts, allowed=allowed)
        output.out.print(render_function(found, options.function, verbose=output.verbose))
        return EXIT_STATUS[found.verdict]
    # Here and below, for a page and what is shown are slow to import, and a document needs neither.
    if options.html:
        from builder.cli.page import describer, write_diff

        found = diff(options.old, options.new, shifts=shifts, allowed=allowed)
        pair = describer(output.verbose)(found, options.new.name)
        write_diff(options.html, options.old, options.new, [pair])
        document = found.as_json()
    else:
        document = diff_document(options.old, options.new, shifts=shifts, allowed=allowed)
    if output.json:
        output.document(document)
    elif not output.quiet:
        from builder.report.diff import render_diff

        output.out.print(render_diff(document, verbose=output.verbose))
    return EXIT_STATUS[document["verdict"]]


def _trees(options: argparse.Namespace, output: Output, shifts: Sequence[Shift], allowed: Allowed) -> int:
    from builder.cli.trees import compare_trees

    describe = None
    if options.html:
        from builder.cli.page import describer, write_diff

        describe = describer(output.verbose)
    old, new, jobs = options.old, options.new, options.jobs
    document, pairs, status = compare_trees(old, new, shifts, allowed, jobs, output, describe)
    if options.html:
        write_diff(options.html, options.old, options.new, pairs, document["unpaired"])
    if output.json:
        output.document(document)
    elif not output.quiet:
        from builder.report.diff import render_tree

        output.out.print(render_tree(document, verbose=output.verbose))
    return status

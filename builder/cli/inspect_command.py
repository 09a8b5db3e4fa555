"""`bespoke inspect X.ko [Y.ko]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.binary.inspection import compare, inspect
from builder.cli.common import Output, check_html, write_output


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("module", type=Path, metavar="X.ko", help="any module, ours or not, compressed or not")
    parser.add_argument("other", type=Path, nargs="?", metavar="Y.ko", help="another one: what it does otherwise")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write what is found as one page")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    check_html(options.html, options.module, options.other)
    found = inspect(options.module)
    other = inspect(options.other) if options.other is not None else None
    differs = compare(found, other) if other is not None else None
    if options.html is not None:
        # Here, for templates are slow to import.
        from builder.report.inspect_page import render_inspection_page

        text = render_inspection_page(found) if other is None else render_inspection_page(other, found, differs)
        write_output(options.html, text)
    if output.json:
        document = found.as_json()
        if other is not None and differs is not None:
            document = {"old": document, "new": other.as_json(), "difference": differs.as_json()}
        output.document(document)
    elif output.plain:
        from builder.report.inspect import render_difference, render_inspection

        if other is None or differs is None:
            output.out.print(render_inspection(found, verbose=output.verbose))
        else:
            output.out.print(render_difference(found, other, differs))
    return 0

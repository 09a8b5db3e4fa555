"""`bespoke explain CODE`."""

from __future__ import annotations

import argparse

from builder.cli.common import Output
from builder.codes import CODES
from builder.guide import explain
from builder.report.explain import render_codes, render_section


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "code",
        nargs="?",
        metavar="CODE",
        help="of a refusal, a warning or a finding; without one, a line for each",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if options.code is None:
        if output.json:
            output.document([{"code": row.name, "page": row.page, "means": row.means} for row in CODES.values()])
        elif output.plain:
            output.out.print(render_codes(CODES.values()))
        return 0
    found = explain(options.code)
    if output.json:
        output.document(
            {"code": found.code.name, "means": found.code.means, "page": f"docs/{found.page}", "text": found.shown}
        )
    elif output.plain:
        output.out.print(render_section(found))
    return 0

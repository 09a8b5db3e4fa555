"""`bespoke kernels`."""

from __future__ import annotations

import argparse

from builder.cli.common import Output
from builder.report.kernels import render_kernels
from builder.supported import proven


def add(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if output.json:
        output.document(
            [
                {"release": row.release, "series": row.series, "flavour": row.flavour, "suite": row.suite}
                | {"date": row.date, "steps": dict(row.steps)}
                for row in proven()
            ]
        )
    elif output.plain:
        output.out.print(render_kernels(proven()))
    return 0

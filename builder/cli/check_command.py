"""`bespoke check X.ko ... --kernel K [--cpu MODEL]...`."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli.common import Output, add_kernel, named_paths, open_kernel
from builder.errors import UsageError
from builder.preflight.check import Checker


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "modules", nargs="+", type=Path, metavar="X.ko", help="any modules of that kernel, ours or not, each by itself"
    )
    add_kernel(parser)
    parser.add_argument(
        "--cpu",
        action="append",
        default=[],
        metavar="MODEL",
        help="a CPU model as QEMU names it, `MODEL,+FLAG,-FLAG` to change it; several times for several (default: max)",
    )
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="number of CPUs")
    parser.add_argument("--cmdline", default="", metavar="TEXT", help="the kernel's command line, like mitigations=off")
    parser.add_argument(
        "--sign-cert",
        type=Path,
        action="append",
        default=[],
        metavar="CERT",
        help="a certificate (X.509) that the kernel trusts besides its own, to verify the signature by",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if options.smp < 1:
        raise UsageError("--smp takes a number of CPUs, at least 1")
    certificates = []
    if options.sign_cert:
        from builder.emit.signing import read_certificate  # here, for it is slow to import

        certificates = [read_certificate(path) for path in options.sign_cert]
    given = named_paths(options.object)
    checker = Checker(open_kernel(options), given, options.smp, options.cmdline, certificates)
    reports = [checker.check(module, options.cpu or ["max"]) for module in options.modules]
    if output.json:
        documents = [report.as_json() for report in reports]
        output.document(documents[0] if len(documents) == 1 else {"modules": documents})
    elif output.plain:
        from builder.report.check import render_check  # here, for it is slow to import

        for report in reports:
            output.out.print(render_check(report, verbose=output.verbose))
    else:
        for report in reports:
            of = f"{report.module}: " if len(reports) > 1 else ""
            for finding in (*report.refusals, *report.problems):
                output.error(f"{of}{finding.code}: {finding.message}")
    return max(report.exit_status for report in reports)

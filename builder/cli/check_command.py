"""`bespoke check X.ko --kernel K [--cpu MODEL]...`."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli.common import Output, add_kernel, named_paths, open_kernel
from builder.emit.signing import read_certificate
from builder.errors import UsageError
from builder.preflight.check import check
from builder.report.check import render_check


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("module", type=Path, metavar="X.ko", help="any module of that kernel, ours or not")
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
    report = check(
        options.module,
        open_kernel(options),
        options.cpu or ["max"],
        objects=named_paths(options.object),
        number_of_cpus=options.smp,
        cmdline=options.cmdline,
        certificates=[read_certificate(path) for path in options.sign_cert],
    )
    if output.json:
        output.document(report.as_json())
    elif output.plain:
        output.out.print(render_check(report, verbose=output.verbose))
    else:
        for finding in (*report.refusals, *report.problems):
            output.error(f"{finding.code}: {finding.message}")
    return report.exit_status

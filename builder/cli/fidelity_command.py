"""`bespoke fidelity --kernel K [--modules N] [--cpu MODEL] [--smp N]`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from builder.binary.module import ModuleFile
from builder.cli.common import Output, add_kernel, named_paths, open_kernel
from builder.errors import UsageError
from builder.preflight.fidelity import CONFIG, choose, compare
from builder.report.fidelity import render_fidelity


def add(parser: argparse.ArgumentParser) -> None:
    add_kernel(parser)
    parser.add_argument("extra", nargs="*", type=Path, metavar="X.ko", help="modules of your own, loaded last")
    parser.add_argument("--modules", default="500", metavar="N", help="how many of the kernel's tree, or `all`")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="which ones: the seed of the draw")
    parser.add_argument("--cpu", default="max", metavar="MODEL", help="QEMU's CPU model (default: max)")
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="number of CPUs")
    parser.add_argument("--kaslr", action="store_true", help="boot the bzImage, at a random address")
    parser.add_argument("--cmdline", default="", metavar="TEXT", help="added to the kernel's command line")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    if options.modules != "all" and not (options.modules.isdecimal() and int(options.modules)):
        raise UsageError(f"--modules takes a number, at least 1, or `all`, not {options.modules!r}")
    extra = [ModuleFile.read(path) for path in (*named_paths(options.object).values(), *options.extra)]
    kernel = open_kernel(options)
    paths = choose(kernel, None if options.modules == "all" else int(options.modules), options.seed)
    machine = replace(CONFIG, cpu=options.cpu, smp=options.smp, kaslr=options.kaslr, cmdline=options.cmdline)
    with output.progress() as shown:
        outcomes = compare(kernel, paths, machine, extra=extra, say=shown.step)
    if output.json:
        output.document({"comparisons": [outcome.as_json() for outcome in outcomes]})
    elif output.plain:
        output.out.print(render_fidelity(outcomes, verbose=output.verbose))
    return 0 if all(outcome.exact for outcome in outcomes) else 1

"""`bespoke package X.ko... --deb|--rpm|--dir -o OUT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from builder.cli.common import Output
from builder.packages import PackagedModule, PackagePlan, package, usual_maintainer
from builder.report.spelled import one_line


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "modules",
        nargs="+",
        type=Path,
        metavar="X.ko",
        help="livepatches of ours, for one kernel or several, in the order of loading",
    )
    kinds = parser.add_mutually_exclusive_group(required=True)
    for kind, text in (("deb", "a Debian package"), ("rpm", "an RPM"), ("dir", "only the tree of files")):
        kinds.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=text)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the file, or the directory that it is put into"
    )
    parser.add_argument("--name", metavar="NAME", help="the package's name (default: livepatch-MODULE)")
    parser.add_argument("--version", dest="package_version", default="1", metavar="V", help="its version (default: 1)")
    parser.add_argument(
        "--maintainer", metavar="'NAME <MAIL>'", help="who is to be asked (default: $DEBFULLNAME <$DEBEMAIL>)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    modules = [PackagedModule.read(path) for path in options.modules]
    name = options.name or f"livepatch-{modules[0].name.lower().replace('_', '-')}"
    plan = PackagePlan(name, options.package_version, options.maintainer or usual_maintainer(options.kind))
    written = package(modules, plan, options.kind, options.output)
    if output.json:
        rows = [{"module": m.name, "kernel": m.release, "functions": list(m.functions)} for m in modules]
        output.document({"package": str(written), "name": plan.name, "version": plan.version, "modules": rows})
    elif output.plain:
        for module in modules:
            output.out.print(one_line(f"{module.name} for {module.release}: {', '.join(module.functions)}"))
        output.out.print(one_line((str(written), "bold")))
    return 0

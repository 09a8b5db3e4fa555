"""`bespoke patch FIX.patch --source TREE --kernel K -o X.ko`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.acquire.compile import OBJECT_LIMIT, Compiling
from builder.acquire.outside import ModuleSource
from builder.acquire.patch import PatchObjects
from builder.acquire.series import module_names, stacks
from builder.acquire.source import SourceTree
from builder.acquire.sources import find_source
from builder.cli.common import (
    Output,
    add_allow,
    add_html,
    add_kernel,
    add_set,
    check_html,
    check_output,
    named_paths,
    open_kernel_for_source,
    refused_rows,
    wanted_name,
    write_output,
)
from builder.cli.signing import add_signing, signed, signing_key
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit import Module, free_module_name
from builder.emit.patched import Patched, PatchRefusedError
from builder.emit.signing import SigningKey
from builder.errors import Allowed, BespokeError, Refusal, RefusedError, UsageError
from builder.pipeline import ModulePlan, patch, source_target
from builder.report.following import next_command
from builder.report.patch import patch_document, render_patch, source_facts


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "patches",
        nargs="+",
        type=Path,
        metavar="FIX.patch",
        help="patches, applied one on the other; a directory or a file `series` stands for its patches",
    )
    parser.add_argument(
        "--source",
        metavar="TREE",
        help="a source tree, a tarball, a package or a release (default: the kernel's package)",
    )
    parser.add_argument(
        "--module-source",
        type=Path,
        metavar="DIR",
        help="the patch is to an out-of-tree module: its source, whose makefile is used (with --object NAME=PATH.ko)",
    )
    add_kernel(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="X.ko", help="the module to write")
    parser.add_argument(
        "--each",
        action="store_true",
        help="one module for each patch, beside -o, with a table of outcomes; in a series it has those before it too",
    )
    parser.add_argument("--name", metavar="NAME", help="the module's name (default: that of the output file)")
    parser.add_argument("--replace", action="store_true", help="take the place of all earlier livepatches")
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="compile N objects at once (default: all CPUs)")
    parser.add_argument(
        "--limit",
        type=int,
        default=OBJECT_LIMIT,
        metavar="N",
        help=f"compile at most N objects (default {OBJECT_LIMIT})",
    )
    add_allow(parser)
    add_signing(parser)
    add_set(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    # Cancelled by a CI: end what runs for us, as an interrupt does, and not only this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    allowed = Allowed.parse(options.allow, options.set)
    runs = stacks(options.patches)
    patches = [path for stack in runs for path in stack]
    outputs = _outputs(options, patches)
    key = signing_key(options)
    if not options.each:
        check_html(options.html, *outputs, *patches)
    spec = options.source if options.module_source is None else ""
    with open_kernel_for_source(options, spec, allowed) as kernel:
        objects = Objects(kernel, named_paths(options.object))
        if not options.each:
            free_module_name(wanted_name(options.name, options.output), kernel)
        tree = _source(options, objects, allowed)
    job = _Job(options, output, objects, tree, allowed, key)
    if options.each:
        return _each(job, runs, outputs)
    made = job.make(patches, options.output, options.name)
    following = next_command(options.output, options.kernel, options.object)
    if output.json:
        output.document(patch_document(made, options.output, following))
    elif made.module is not None and not output.quiet:
        output.out.print(render_patch(made, options.output, output.verbose, following))
    if made.module is None:
        for warning in made.warnings:
            output.error(f"{warning.code}: {warning.message}")
        output.error("nothing that runs changed; no module was written")
        return 3
    return 0


def _source(options: argparse.Namespace, objects: Objects, allowed: Allowed) -> SourceTree | ModuleSource:
    if options.module_source is None:
        return find_source(options.source, source_target(objects.kernel), allowed=allowed)
    if options.source is not None:
        raise UsageError("--source is a kernel's source: it cannot be given with --module-source")
    owners = [name.replace("-", "_") for name in objects.given]
    return ModuleSource.of(options.module_source, owners, objects.kernel.release)


@dataclass(frozen=True, slots=True)
class _Job:
    """What all of a run's modules share."""

    options: argparse.Namespace
    output: Output
    objects: Objects
    tree: SourceTree | ModuleSource
    allowed: Allowed
    key: SigningKey | None

    def make(self, patches: list[Path], path: Path, name: str | None) -> Patched:
        """Write the module of all `patches` together to `path`, and the page; RefusedError with all reasons."""
        options = self.options
        plan = ModulePlan(wanted_name(name, path), replace=options.replace, allowed=self.allowed, limit=options.limit)
        try:
            with self.output.progress() as shown:
                how = Compiling(options.limit, options.jobs, shown.count)
                made = patch(patches, self.tree, self.objects, plan, how)
        except PatchRefusedError as refused:
            self._write(path, patches, refused.objects, refused.diffs, refusals=refused.refusals)
            raise
        except RefusedError as refused:
            self._write(path, patches, refusals=refused.refusals)
            raise
        if made.module is not None:
            write_output(path, signed(made.module.content, self.key))
        if self.options.html is not None:  # only for a page all pairs are compared
            self._write(path, patches, made.objects, made.diffs, module=made.module)
        return made

    def _write(
        self,
        path: Path,
        patches: Sequence[Path],
        objects: PatchObjects | None = None,
        diffs: Sequence[Diff] = (),
        *,
        module: Module | None = None,
        refusals: Sequence[Refusal] = (),
    ) -> None:
        """The page, where one is wanted (`--each`: one called as the module); `objects` were compiled and compared."""
        if self.options.html is None:
            return
        from builder.cli.page import ModulePage, write_build  # here, for a page is slow to import

        labelled = tuple((p.path, found) for p, found in zip(objects.pairs, diffs, strict=True)) if objects else ()
        notes = objects.warnings if objects else ()
        facts = (
            ("source patch", ", ".join(patch.name for patch in patches)),
            *(source_facts(objects.tree) if objects else ()),
        )
        texts = tuple((patch.name, patch.read_text(errors="replace")) for patch in patches)
        page = ModulePage(
            labelled, self.objects.kernel.release, path, self.options, module, tuple(refusals), notes, facts, texts
        )
        html = self.options.html
        place = html / f"{path.stem}.html" if self.options.each else html
        write_build(place, page, verbose=self.output.verbose)


def _outputs(options: argparse.Namespace, patches: list[Path]) -> list[Path]:
    """The modules to write, one for all patches or one for each; what can be known to be wrong before minutes pass."""
    if options.jobs is not None and options.jobs < 1:
        raise UsageError("-j takes a number of objects from 1 on")
    if options.limit < 1:
        raise UsageError("--limit takes a number of objects from 1 on")
    if options.each:
        if options.name:
            raise UsageError("--name is about one module: it cannot be given with --each")
        if options.html is not None and not options.html.is_dir():
            raise UsageError(f"--html with --each takes a directory for the pages; {options.html} is none")
        folder = options.output if options.output.is_dir() else options.output.parent
        outputs = [folder / f"{name}.ko" for name in module_names(patches).values()]
    else:
        wanted_name(options.name, options.output)
        outputs = [options.output]
    for path in outputs:
        check_output(path)
    return outputs


WIDTH = 100


def _row(verdict: str, name: str, detail: str) -> str:
    """A line of the table of `--each`; what does not fit into it is in the document of `--json`, and on the page."""
    line = f"{verdict:<10} {name:<40} {detail}"
    return (line if len(line) <= WIDTH else line[: WIDTH - 3] + "...").rstrip()


#: the exit status of `--each` is that of the worst of its patches
EACH_STATUS = (("error", 2), ("refused", 1), ("built", 0))


def _each(job: _Job, runs: list[list[Path]], outputs: list[Path]) -> int:
    """One module for each patch; one that is refused, or does not fit, stops no other.

    In a series a patch is applied on those before it, and its module has their changes too: it has to fit the kernel
    as it runs, and its text is made for theirs. Those that were refused, or did not fit, are left out.
    """
    options, output = job.options, job.output
    from builder.report.spelled import one_line  # here, for it is slow to import

    rows: list[dict[str, Any]] = []
    places = iter(outputs)
    below: list[Path] = []
    for first, source in ((source is stack[0], source) for stack in runs for source in stack):
        path = next(places)
        below = [] if first else below
        row: dict[str, Any] = {
            "patch": str(source),
            "on": [str(earlier) for earlier in below],
            "verdict": "built",
            "module": None,
            "detail": "",
            "functions": [],
        }
        try:
            made = job.make([*below, source], path, None)
            below = [*below, source]
            if made.module is None:
                row["verdict"] = "unchanged"
                row["detail"] = "; ".join(f"{w.code}: {w.symbol}" for w in made.warnings)
            else:
                row |= {"module": str(path), "functions": list(made.functions), "detail": ", ".join(made.functions)}
        except RefusedError as refused:
            row |= {
                "verdict": "refused",
                **refused_rows(refused),
                "functions": list(refused.functions["changed"]),
                "detail": "; ".join(f"{r.code}: {r.symbol}" for r in refused.refusals),
            }
        except BespokeError as error:
            row |= {"verdict": "error", "detail": str(error)}
        rows.append(row)
        if output.plain:
            output.out.print(_row(row["verdict"], source.name, row["detail"]))
    counts = Counter(row["verdict"] for row in rows)
    if output.json:
        output.document({"patches": rows, "verdicts": dict(counts)})
    elif output.plain:
        output.out.print(one_line(f"{len(rows)} patches: " + ", ".join(f"{n} {v}" for v, n in sorted(counts.items()))))
        built = next((row["module"] for row in rows if row["module"]), None)
        if built is not None:
            command = next_command(Path(built), options.kernel, options.object)
            output.out.print(one_line(f"next: {command}", style="dim"))
    return next((status for verdict, status in EACH_STATUS if verdict in counts), 3)

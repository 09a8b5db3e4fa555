"""`bespoke patch FIX.patch --source TREE --kernel K -o X.ko`."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.logging import RichHandler
from rich.progress import Progress
from rich.text import Text

from builder.acquire.cache import cache_root, write_whole
from builder.acquire.compile import Progress as Report
from builder.acquire.packages import fetch_kernel
from builder.acquire.patch import OBJECT_LIMIT, PatchObjects, prepare_patch
from builder.acquire.sources import Target, find_source
from builder.binary.kernel import Kernel
from builder.binary.kernel.modules import find_image
from builder.cli.common import Output, add_allow, add_kernel, allowed, named_paths
from builder.cli.page import add_html, check_html, write_build
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit import Module
from builder.errors import InputError, KernelError, RefusedError, UsageError
from builder.pipeline import build, diff
from builder.report.build import render_build


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "patches", nargs="+", type=Path, metavar="FIX.patch",
        help="patches, applied one on the other; a directory or a file `series` stands for its patches",
    )  # fmt: skip
    parser.add_argument(
        "--source",
        metavar="TREE",
        help="a source tree, a tarball, a package or a release (default: the kernel's package)",
    )
    add_kernel(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="X.ko", help="the module to write")
    parser.add_argument(
        "--each", action="store_true", help="one module for each patch, beside -o, with a table of outcomes"
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
    add_html(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    names = allowed(options.allow)
    patches = _expand(options.patches)
    if options.each and options.html:
        raise UsageError("--html reports on one module: it cannot be given with --each")
    check_html(options.html, options.output, *patches)
    with _logged(output):
        kernel = Kernel.open(_at_hand(options.kernel))
        objects = Objects(kernel, named_paths(options.object))
        config = kernel.path.parent / f"config-{kernel.release}"
        target = Target(kernel.release, config if config.is_file() else None, kernel.banner)
        tree = find_source(options.source, target, allow_compiler=any(c == "compiler-differs" for c, _ in names))
    maker = _Maker(options, output, objects, names, tree)
    if options.each:
        return _each(maker, patches, output)
    made = maker.make(patches, options.output, options.name)
    if made.module is None:
        if output.json:
            output.document({"verdict": "unchanged", "objects": made.rows()})
        output.error("nothing that runs changed; no module was written")
        return 3
    if output.json:
        output.document({**made.module.manifest, "source": made.rows()})
    elif not output.quiet:
        output.out.print(made.render(output.verbose))
    return 0


def _at_hand(kernel: str) -> str:
    """`kernel` as it was given; a release that this machine has not is fetched, as its source would be."""
    if re.match(r"\d+\.\d+", kernel) and not Path(kernel).exists():
        try:
            find_image(kernel, cache_root())
        except KernelError:
            fetch_kernel(kernel)
    return kernel


class _Made:
    def __init__(self, module: Module | None, objects: PatchObjects, diffs: list[Diff], path: Path) -> None:
        self.module, self.objects, self.diffs, self.path = module, objects, diffs, path

    def rows(self) -> list[dict[str, Any]]:
        return [
            {"path": pair.path, "owner": pair.owner, **found.as_json()}
            for pair, found in zip(self.objects.pairs, self.diffs, strict=True)
        ]

    def render(self, verbose: bool) -> Group:
        assert self.module is not None
        count = len(self.objects.pairs)
        considered = f"of {self.objects.considered} that may be concerned" if self.objects.considered > count else ""
        head = Text(
            f"{', '.join(self.objects.files)}: {count} object{'s' * (count != 1)} compiled {considered}; each replaced "
            f"function was found in {self.module.manifest['kernel']['release']} byte by byte",
            style="dim",
        )
        documents = [d.as_json() for d in self.diffs]
        notes = [Text(f"  {w.code}: {w.message}", style="yellow") for w in self.objects.warnings]
        return Group(head, *notes, render_build(self.module.manifest, documents, self.path, verbose))


class _Maker:
    """Patches in, a module out, with what all of a run's modules share."""

    def __init__(
        self,
        options: argparse.Namespace,
        output: Output,
        objects: Objects,
        names: tuple[tuple[str, str], ...],
        tree: Any,
    ) -> None:
        self.options, self.output, self.objects, self.names, self.tree = options, output, objects, names, tree

    def make(self, patches: list[Path], path: Path, name: str | None) -> _Made:
        if not path.parent.is_dir():
            raise UsageError(f"there is no directory {path.parent}")
        allow = [f"{code}:{symbol}" for code, symbol in self.names]
        try:
            with _logged(self.output), _progress(self.output) as report:
                found = prepare_patch(
                    patches, self.tree, allow=allow, limit=self.options.limit, jobs=self.options.jobs, progress=report
                )
        except RefusedError as refused:
            self._page(path, None, [], None, refused)
            raise
        diffs = [diff(pair.old, pair.new, allowed=self.names) for pair in found.pairs]
        try:
            module = build(
                diffs,
                self.objects.kernel,
                name=name or path.name.removesuffix(".ko"),
                objects=self.objects,
                inside=[pair.owner for pair in found.pairs],
                replace=self.options.replace,
            )
        except RefusedError as refused:
            self._page(path, found, diffs, None, refused)
            raise
        if module is not None:
            write_whole(path, module.content)
        self._page(path, found, diffs, module)
        return _Made(module, found, diffs, path)

    def _page(
        self,
        path: Path,
        found: PatchObjects | None,
        diffs: list[Diff],
        module: Module | None,
        refused: RefusedError | None = None,
    ) -> None:
        if self.options.html is None:
            return
        labels = [pair.path for pair in found.pairs] if found else []
        write_build(
            self.options.html,
            list(zip(labels, diffs, strict=True)),
            self.objects.kernel,
            path,
            module,
            refused,
            verbose=self.output.verbose,
            notes=found.warnings if found else (),
        )


#: the exit status of `--each` is that of the worst of its patches
EACH_STATUS = (("error", 2), ("refused", 1), ("built", 0))


def _each(maker: _Maker, patches: list[Path], output: Output) -> int:
    """One module for each patch; one that is refused, or does not fit, stops no other."""
    rows = []
    for patch in patches:
        path = maker.options.output.parent / f"{patch.stem.replace('-', '_')}.ko"
        try:
            made = maker.make([patch], path, None)
            verdict = "unchanged" if made.module is None else "built"
            detail = "" if made.module is None else ", ".join(
                f["name"] for f in made.module.manifest["functions"] if f["redirected"]
            )  # fmt: skip
        except RefusedError as refused:
            verdict, detail = "refused", "; ".join(f"{r.code}: {r.symbol}" for r in refused.refusals)
        except InputError as error:
            verdict, detail = "error", str(error)
        rows.append({"patch": str(patch), "verdict": verdict, "module": str(path) if verdict == "built" else None,
                     "detail": detail})  # fmt: skip
        if output.plain:
            output.out.print(Text(f"{verdict:<10} {patch.name:<40} {detail}"))
    if output.json:
        output.document({"patches": rows})
    verdicts = {row["verdict"] for row in rows}
    return next((status for verdict, status in EACH_STATUS if verdict in verdicts), 3)


def _expand(paths: list[Path]) -> list[Path]:
    """Directories and `series` files (quilt's: a patch name a line) stand for their patches, in order."""
    out: list[Path] = []
    for path in paths:
        if path.is_dir():
            series = path / "series"
            out += _series(series) if series.is_file() else sorted(path.glob("*.patch"))
        elif path.name == "series":
            out += _series(path)
        elif path.is_file():
            out.append(path)
        else:
            raise UsageError(f"there is no file {path}")
    if not out:
        raise UsageError(f"there are no patches in {paths[0]}")
    return out


def _series(path: Path) -> list[Path]:
    names = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return [path.parent / words[0] for words in names if words]


@contextmanager
def _logged(output: Output) -> Iterator[None]:
    """What takes time says so on stderr: everything with -v, else only on a terminal."""
    logger = logging.getLogger("bespoke")
    if output.quiet or not (output.verbose or output.err.is_terminal):
        yield
        return
    handler = RichHandler(console=output.err, show_path=False, show_level=False, log_time_format="%X")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _progress(output: Output) -> Iterator[Report | None]:
    """A bar on a terminal."""
    if output.quiet or not output.err.is_terminal:
        yield None
        return
    with Progress(console=output.err, transient=True) as bar:
        task = bar.add_task("compiling", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield report

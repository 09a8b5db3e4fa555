"""What `bespoke patch` does for each module: compile, compare, build, write, report."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.logging import RichHandler
from rich.progress import Progress
from rich.text import Text

from builder.acquire.compile import Progress as Report
from builder.acquire.patch import PatchObjects, prepare_patch
from builder.acquire.source import SourceTree
from builder.cli.common import Output, write_output
from builder.cli.page import write_build
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit import Module
from builder.errors import Allowed, Refusal, RefusedError
from builder.pipeline import build, diff, running_part
from builder.report.build import next_command, render_build


@dataclass(frozen=True)
class Made:
    """What came of some patches; `module` is None where nothing that runs changed."""

    module: Module | None
    objects: PatchObjects
    diffs: list[Diff]
    path: Path
    release: str
    following: str

    @property
    def functions(self) -> list[str]:
        """Names of the replaced functions."""
        return [f.name for f in self.module.manifest.redirected] if self.module else []

    @property
    def warnings(self) -> list[Refusal]:
        """What was left out and what to look at, of the patch and of each object."""
        return list(dict.fromkeys([*self.objects.warnings, *(w for d in self.diffs for w in d.judged.warnings)]))

    def as_json(self) -> dict[str, Any]:
        """The module's manifest (where there is one) and where it comes from."""
        rows = [
            {"path": pair.path, "owner": pair.owner, **found.as_json()}
            for pair, found in zip(self.objects.pairs, self.diffs, strict=True)
        ]
        tree = self.objects.tree
        built = {
            "tree": tree.identity,
            "kernel_version": tree.kernel_version,
            "compiler": tree.compiler.version,
            "drift": list(tree.drift),
            "files": list(self.objects.files),
            "considered": self.objects.considered,
            "compiled": len({pair.path for pair in self.objects.pairs}),
            "log": str(self.objects.log),
            "warnings": [w.as_json() for w in self.objects.warnings],
        }
        if self.module is None:
            return {"verdict": "unchanged", "objects": rows, "built_from": built}
        more = {"module": str(self.path), "next": self.following}
        return {**self.module.manifest.as_json(), "verdict": "changed", "source": rows, "built_from": built, **more}

    def render(self, verbose: bool) -> Group:
        """For people: from what, with what, checked against what; then the module."""
        assert self.module is not None
        tree = self.objects.tree
        count = len({pair.path for pair in self.objects.pairs})
        considered = f" of {self.objects.considered} that may be concerned" if self.objects.considered > count else ""
        owners = ", ".join(sorted({f.object for f in self.module.manifest.redirected}))
        checked = f"{len(self.functions)} replaced function{'s' * (len(self.functions) != 1)}"
        lines = [
            f"{', '.join(self.objects.files)}: {count} object{'s' * (count != 1)} compiled{considered}, before and "
            f"after, from {tree.identity} by {tree.compiler.version} (log: {self.objects.log})",
            f"checked against {owners or 'vmlinux'} of {self.release}: {checked} found there byte by byte",
        ]
        lines += [f"configuration differs: {option}" for option in tree.drift]
        notes = [Text(f"  {w.code}: {w.message}", style="yellow") for w in self.objects.warnings]
        documents = [d.as_json() for d in self.diffs]
        head = [Text(line, style="dim") for line in lines]
        return Group(*head, *notes, render_build(self.module.manifest, documents, self.path, verbose, self.following))


class Maker:
    """Patches in, a module out, with what all of a run's modules share."""

    def __init__(
        self,
        options: argparse.Namespace,
        output: Output,
        objects: Objects,
        allowed: Allowed,
        tree: SourceTree,
    ) -> None:
        self.options, self.output, self.objects, self.allowed, self.tree = options, output, objects, allowed, tree

    def make(self, patches: list[Path], path: Path, name: str | None) -> Made:
        """Build the module of all `patches` together and write it to `path`; `RefusedError` with all reasons."""
        try:
            with logged(self.output), progress(self.output) as report:
                found = prepare_patch(
                    patches,
                    self.tree,
                    allowed=self.allowed,
                    limit=self.options.limit,
                    jobs=self.options.jobs,
                    progress=report,
                )
        except RefusedError as refused:
            self._page(path, None, [], None, refused)
            raise
        diffs = [diff(pair.old, pair.new, allowed=self.allowed) for pair in found.pairs]
        diffs = [
            running_part(d, self.objects, pair.owner, allowed=self.allowed)
            for d, pair in zip(diffs, found.pairs, strict=True)
        ]
        try:
            module = build(
                diffs,
                self.objects.kernel,
                name=name or path.name.removesuffix(".ko"),
                objects=self.objects,
                inside=[pair.owner for pair in found.pairs],
                replace=self.options.replace,
                allowed=self.allowed,
            )
        except RefusedError as refused:
            self._page(path, found, diffs, None, refused)
            raise
        if module is not None:
            write_output(path, module.content)
        self._page(path, found, diffs, module)
        following = next_command(path, self.options.kernel, self.options.object)
        return Made(module, found, diffs, path, self.objects.kernel.release, following)

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


@contextmanager
def logged(output: Output) -> Iterator[None]:
    """What takes time says so on stderr: all of it with -v or on a terminal, else what takes long; -q: nothing."""
    logger = logging.getLogger("bespoke")
    handler: logging.Handler = logging.NullHandler()
    if not output.quiet and (output.verbose or output.err.is_terminal):
        handler = RichHandler(console=output.err, show_path=False, show_level=False, log_time_format="%X")
        logger.setLevel(logging.INFO)
    elif not output.quiet:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("bespoke: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def progress(output: Output) -> Iterator[Report | None]:
    """A bar on a terminal."""
    if output.quiet or not output.err.is_terminal:
        yield None
        return
    with Progress(console=output.err, transient=True) as bar:
        task = bar.add_task("compiling", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield report

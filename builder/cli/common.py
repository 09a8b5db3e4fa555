"""What the commands share: where output goes, and arguments that several take."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.acquire.whole import check_place, write_whole
from builder.cli.progress import Shown, logged, shown
from builder.errors import Allowed, KernelError, RefusedError, UsageError

if TYPE_CHECKING:
    from builder.acquire.shifts import Shift
    from builder.binary.kernel import Kernel
    from builder.report.spelled import Screen

log = logging.getLogger("bespoke.kernel")

_UNBOUNDED = 4000
_FORCED = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables by which rich takes a stream for a terminal that is none, or the other way round."""


@dataclass(frozen=True)
class Output:
    """Results go to stdout, everything else to stderr."""

    json: bool = False
    verbose: bool = False
    quiet: bool = False

    @cached_property
    def out(self) -> Screen:
        # Here and below, for a command that writes a document or nothing needs no console, which is slow to import.
        from builder.report.spelled import Screen

        # A pipe or a file has no width: nothing is to be cut or wrapped there.
        return Screen(width=None if sys.stdout.isatty() else _UNBOUNDED)

    @cached_property
    def err(self) -> Screen:
        from builder.report.spelled import Screen

        return Screen(stderr=True, soft_wrap=True)

    @property
    def plain(self) -> bool:
        """Whether a result for people is wanted."""
        return not self.json and not self.quiet

    @property
    def is_watched(self) -> bool:
        """Whether standard error is a terminal."""
        return (sys.stderr.isatty() or any(name in os.environ for name in _FORCED)) and self.err.is_terminal

    def progress(self) -> AbstractContextManager[Shown]:
        """Where a command shows how far it is: on a terminal only, and never with -q."""
        return shown(self.err if not self.quiet and self.is_watched else None)

    def logged(self) -> AbstractContextManager[None]:
        """While the log is shown."""
        return logged(lambda: self.err, steps=self.verbose or self.is_watched, quiet=self.quiet)

    def document(self, document: Any) -> None:
        """The one JSON document of `--json`."""
        sys.stdout.write(compact(document) + "\n")
        sys.stdout.flush()

    def error(self, message: str) -> None:
        self.err.print(f"bespoke: {message}")

    def refused(self, refused: RefusedError) -> None:
        """All refusals together, and what else was found, each with its advice."""
        if self.json:
            self.document({"verdict": "refused", **refused_rows(refused)})
        for refusal in refused.refusals:
            self.error(f"refused: {refusal.code}: {refusal.message}")
            if not self.quiet:
                allow = "" if refusal.fatal else f" (accept: --allow {refusal.code}:{refusal.symbol})"
                self.err.print(f"         {refusal.advice}{allow}", style="dim")
        for warning in refused.warnings:
            self.error(f"warning: {warning.code}: {warning.message}")
            if warning.advice and not self.quiet:
                self.err.print(f"         {warning.advice}", style="dim")


_WIDTH = 120
_PLAIN = {str, int, bool, float, type(None)}


def compact(value: Any, depth: int = 0) -> str:
    """JSON to be read: an entry a line, and a list of plain values on one, as a short row of a list of objects; lists
    of lists fill lines (the rows of a map are thousands)."""
    if (kind := type(value)) in _PLAIN:  # most of a document, and most of that numbers
        return str(value) if kind is int else json.dumps(value)
    within, end = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, Mapping) and value:
        rows = (f"{_quoted(str(key))}: {compact(item, depth + 1)}" for key, item in value.items())
        return "{" + within + f",{within}".join(rows) + end + "}"
    if isinstance(value, list | tuple) and value and _are_rows(value):
        return "[" + within + within.join(_filled(value, _WIDTH - depth)) + end + "]"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        return "[" + within + f",{within}".join(_item(item, depth + 1) for item in value) + end + "]"
    return json.dumps(value)


_quoted = cache(json.dumps)
"""For keys, which are few."""


def _item(value: Any, depth: int) -> str:
    """An item of a list: an object of plain values on a line, if it is short."""
    if isinstance(value, Mapping) and _is_row([*value.values()]) and len(line := json.dumps(value)) <= _WIDTH - depth:
        return line
    return compact(value, depth)


def _is_row(value: Any) -> bool:
    """A list of plain values."""
    if not isinstance(value, list | tuple):
        return False
    kinds = set(map(type, value))  # of which there are few
    return kinds <= _PLAIN or not any(issubclass(kind, Mapping | list | tuple) for kind in kinds)


def _are_rows(value: Sequence[Any]) -> bool:
    """Whether all items are rows; told of them at once where they are of nothing special."""
    if set(map(type, value)) <= {list, tuple} and set(map(type, chain.from_iterable(value))) <= _PLAIN:
        return True
    return all(map(_is_row, value))


def _filled(rows: Sequence[Any], width: int) -> Iterator[str]:
    """The rows with commas, as many on a line as fit."""
    whole = json.dumps(rows)[1:-1]
    if '"' not in whole:  # a bracket then is one of a row
        yield from re.findall(rf" ?(.{{1,{width}}}$|.{{1,{width - 2}}}\],(?= )|[^]]*\],?)", whole)
        return
    line = ""
    for number, row in enumerate(rows):
        text = json.dumps(row) + ("," if number < len(rows) - 1 else "")
        if line and len(line) + 1 + len(text) > width:
            yield line
            line = text
        else:
            line = f"{line} {text}".lstrip()
    yield line


def refused_rows(refused: RefusedError) -> dict[str, Any]:
    """What the document of a refused change has in common with that of a diff."""
    return {
        "functions": refused.functions,
        "refusals": [row.as_json() for row in refused.refusals],
        "warnings": [row.as_json() for row in refused.warnings],
    }


def check_output(path: Path) -> None:
    """UsageError where no file can be written as `path`: to be known before any work is done."""
    if not Path(os.path.realpath(path)).parent.is_dir():
        raise UsageError(f"there is no directory {path.parent}")
    check_place(path)


def check_html(path: Path | None, *others: Path | None) -> None:
    """UsageError where the page could not be written, or would overwrite what it reports on."""
    if path is None:
        return
    check_output(path)
    if any(other is not None and path.resolve() == other.resolve() for other in others):
        raise UsageError(f"--html {path}: names a file that is read or written as something else")


def write_output(path: Path, data: bytes | str) -> None:
    """Write a result so that it appears whole or not at all; UsageError names it where it cannot be written."""
    check_output(path)
    try:
        write_whole(path, data)
    except OSError as problem:  # it would name the temporary file
        raise UsageError(f"cannot be written: {problem.strerror}", where=path) from None


def wanted_name(name: str | None, output: Path) -> str:
    """The module's name: that of `--name`, else that of the file; InputError where the kernel could not hold it."""
    # Here, for it is slow to import and only two commands make modules.
    from builder.emit import module_name

    return module_name(output.name.removesuffix(".ko") if name is None else name)


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow", action="append", default=[], metavar="CODE:SYMBOL", help="accept this refusal of judgement"
    )


def add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write the report as one page, with the instructions side by side",
    )


def add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SYMBOL",
        help="put this variable's new initial value into the running kernel, where that still has the old one",
    )


def add_source_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source-diff",
        type=Path,
        metavar="FIX.patch",
        help="the patch of the source between OLD and NEW: it proves line numbers where there is no debug information",
    )


def source_shifts(patch: Path | None) -> tuple[Shift, ...]:
    """How the patch of `--source-diff` moves lines; InputError where it cannot be read."""
    if patch is None:
        return ()
    # Here, for the parser is slow to import.
    from builder.acquire.patchfile import read_patch
    from builder.acquire.shifts import shifts_of

    return shifts_of(read_patch(patch))


def add_kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel",
        required=True,
        metavar="K",
        help="a vmlinuz or vmlinux file, or a release that is installed or cached",
    )
    parser.add_argument(
        "--suite",
        metavar="SUITE",
        help="fetch K, a release or a series, from this suite of the distribution, such as trixie-backports or sid",
    )
    parser.add_argument(
        "--object", action="append", default=[], metavar="NAME=PATH", help="a module of your own, by name, as its .ko"
    )


def at_hand(kernel: str, suite: str | None = None, before: Callable[[str], object] | None = None) -> str:
    """`kernel` as it was given; a release that this machine has not is fetched, as its source would be.

    With `suite` it comes from there, and may be a series, whose newest is taken. `before` is told what is fetched.
    """
    # Here, for they are slow to import and only what compiles needs them.
    from builder.acquire.cache import cache_root
    from builder.acquire.packages import fetch_kernel, newest_kernel
    from builder.binary.kernel.modules import find_image

    if suite and re.fullmatch(r"\d+(\.\d+)?", kernel):
        kernel = newest_kernel(kernel, suite=suite)
    if re.match(r"\d+\.\d+", kernel) and not Path(kernel).exists():
        try:
            find_image(kernel, cache_root())
        except KernelError:
            if before is not None:
                before(kernel)
            fetch_kernel(kernel, suite=suite)
    return kernel


def open_kernel(options: argparse.Namespace, before: Callable[[str], object] | None = None) -> Kernel:
    """The kernel that `--kernel` names; with `--suite`, or `before`, one that is not here is fetched: see `at_hand`."""
    from builder.binary.kernel import Kernel
    from builder.supported import series, tried

    if before is not None or options.suite:
        options.kernel = at_hand(options.kernel, options.suite, before)
    kernel = Kernel.open(options.kernel)
    if not tried(kernel.release):
        log.warning(
            "Linux %s was never tried (see `bespoke kernels`): what follows may be wrong", series(kernel.release)
        )
    return kernel


@contextmanager
def open_kernel_for_source(options: argparse.Namespace, source: str | None, allowed: Allowed) -> Iterator[Kernel]:
    """The kernel that `--kernel` names; where it is fetched its source, if that is wanted, is prepared meanwhile.

    In this block, where `find_source` waits for it.
    """
    from builder.acquire.source import fetch_source  # here, for only what compiles needs them
    from builder.acquire.tools import aside

    with ExitStack() as stack:

        def begin(release: str) -> None:
            if source is None:
                stack.enter_context(aside(partial(fetch_source, release, suite=options.suite, allowed=allowed)))

        yield open_kernel(options, begin)


def named_paths(values: Sequence[str]) -> Mapping[str, Path]:
    """`NAME=PATH` rows; UsageError names one that is not, whose file is missing, or is that of another module.

    The kernel knows a module by the name that its file says, wherever that lies; `-` and `_` are one.
    """
    if not values:
        return {}
    # Here, for it reads modules, and most commands name none.
    from builder.binary.module import ModuleFile, plain

    out = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not name or not path:
            raise UsageError(f"--object takes NAME=PATH, not {value!r}")
        if not Path(path).is_file():
            raise UsageError(f"--object {name}: there is no file {path}")
        own = ModuleFile.read_named(Path(path)).name
        if plain(name) != plain(own):
            raise UsageError(f"--object {name}: {path} is the module {own}; say --object {own}={path}")
        out[name] = Path(path)
    return out

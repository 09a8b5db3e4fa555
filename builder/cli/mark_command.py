"""`bespoke mark PLACE [FORMAT [EXPR...]] --kernel K -o X.ko`."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.acquire.bounds import read_input
from builder.acquire.compile import OBJECT_LIMIT, Compiling
from builder.acquire.marks.source import MarkedSource, MarkPlan, mark_source
from builder.acquire.marks.words import Mark
from builder.acquire.patch import PatchObjects
from builder.acquire.sources import find_source
from builder.binary.kernel import Kernel
from builder.cli.common import (
    Output,
    add_allow,
    add_html,
    add_kernel,
    check_html,
    check_output,
    named_paths,
    open_kernel_for_source,
    wanted_name,
    write_output,
)
from builder.cli.signing import add_signing, signed, signing_key
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit import Module, free_module_name
from builder.emit.patched import PatchRefusedError
from builder.errors import Allowed, InputError, Refusal, RefusedError, UsageError
from builder.marks import KernelLayouts, mark
from builder.pipeline import ModulePlan, source_target
from builder.report.following import next_command
from builder.report.marks import effect_facts, effects_document, marks_document, render_mark_check, render_marks
from builder.report.patch import patch_document, source_facts

if TYPE_CHECKING:
    from builder.preflight.marked import MarkCheck

_OF_A_MARK = {
    "if": ("condition", "EXPR", "record only where this is true"),
    "every": ("every", "N", "record each N-th hit only"),
    "limit": ("limit", "N", "record at most N hits in a second"),
    "sum": ("sum", "EXPR", "add this up instead of recording"),
    "hist": ("hist", "EXPR", "sort this into powers of two instead of recording"),
    "time": ("time", "KEY", "measure the time from here to --until, by this key"),
    "until": ("until", "PLACE", "where a time ends"),
    "until-key": ("until_value", "KEY", "what the key is called there (default: as at the first place)"),
    "as": ("name", "NAME", "what the event is called (default: by its place)"),
}
_SWITCHES = {
    "count": "count the hits instead of recording",
    "stack": "record the stack too",
    "unsafe": "take expressions with side effects",
}


class _Next(argparse.Action):
    """`--and PLACE ...`: another mark; what follows is said of it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, _: Any = None) -> None:
        namespace.more = [*(namespace.more or []), {"words": list(values)}]


class _Said(argparse.Action):
    """An option of the mark that stands before it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, _: Any = None) -> None:
        rows = namespace.more or []
        value = True if self.nargs == 0 else values
        if rows:
            rows[-1][self.dest] = value
        else:
            namespace.first = {**(namespace.first or {}), self.dest: value}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="PLACE [FORMAT] [EXPR]", help="where, and what is recorded there")
    parser.add_argument("--and", dest="more", action=_Next, nargs="+", metavar="PLACE", help="another mark, likewise")
    parser.add_argument("--file", type=Path, metavar="MARKS.toml", help="marks as tables [[mark]] of a file")
    for name, (dest, metavar, text) in _OF_A_MARK.items():
        parser.add_argument(f"--{name}", dest=f"mark_{dest}", action=_Said, metavar=metavar, help=text)
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{name}", dest=f"mark_{name}", action=_Said, nargs=0, help=text)
    parser.add_argument("--armed", action="store_true", help="record from the moment it is loaded")
    parser.add_argument("--source", action="store_true", help="show the patch that is made, and make no module")
    parser.add_argument(
        "--check", nargs="?", const="", metavar="ARGUMENTS",
        help="call the first marked function in the simulated kernel and show the records, without a VM: "
        'numbers, "texts", @N (bytes of zeros), @struct NAME, with commas',
    )  # fmt: skip
    parser.add_argument("--tree", metavar="TREE", help="a source tree or package (default: the kernel's package)")
    add_kernel(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="X.ko", help="the module to write")
    parser.add_argument("--name", metavar="NAME", help="the module's name (default: that of the output file)")
    parser.add_argument("--replace", action="store_true", help="take the place of all earlier livepatches")
    parser.add_argument("--on", type=Path, metavar="V1.ko", help="stack on an earlier module of ours")
    parser.add_argument(
        "--patch", type=Path, action="append", default=[], metavar="FIX.patch",
        help="with --on: the source patch of that module, whose versions of functions are marked",
    )  # fmt: skip
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="compile N objects at once (default: all CPUs)")
    parser.add_argument(
        "--limit-objects", type=int, default=OBJECT_LIMIT, metavar="N",
        help=f"compile at most N objects (default {OBJECT_LIMIT})",
    )  # fmt: skip
    add_allow(parser)
    add_signing(parser)
    add_html(parser)
    parser.set_defaults(run=run, first=None)


def run(options: argparse.Namespace, output: Output) -> int:
    marks = _marks(options)
    allowed = Allowed.parse(options.allow)
    if options.output is None and not options.source:
        raise UsageError("-o X.ko says where the module is written; --source shows the patch alone")
    name = wanted_name(options.name, options.output or Path("marks.ko"))
    if options.output is not None:
        check_output(options.output)
        check_html(options.html, options.output)
    if options.patch and options.on is None and not options.source:
        raise UsageError("--patch FIX.patch goes with --on FIX.ko, the module that was made of it")
    if options.limit_objects < 1 or (options.jobs is not None and options.jobs < 1):
        raise UsageError("-j and --limit-objects take a number of objects from 1 on")
    key = signing_key(options)
    with open_kernel_for_source(options, options.tree, allowed) as kernel:
        objects = Objects(kernel, named_paths(options.object))
        free_module_name(name, kernel)
        check = _check(options, kernel)
        tree = find_source(options.tree, source_target(kernel), allowed=allowed)
    if options.source:
        made = mark_source(marks, tree, KernelLayouts(kernel), MarkPlan(name, 1, options.armed, tuple(options.patch)))
        if output.json:
            output.document({"patch": made.patch, "marks": marks_document(made)})
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(made.patch.encode("utf-8", "surrogateescape"))
        return 0
    plan = ModulePlan(name, replace=options.replace, on=options.on, allowed=allowed)
    try:
        with output.progress() as shown:
            how = Compiling(options.limit_objects, options.jobs, shown.count)
            found = mark(marks, tree, objects, plan, how, armed=options.armed, patches=options.patch)
    except PatchRefusedError as refused:
        _write_page(options, output, kernel, refused.objects, refused.diffs, refusals=refused.refusals)
        raise
    except RefusedError as refused:
        _write_page(options, output, kernel, refusals=refused.refusals)
        raise
    patched = found.patched
    if patched.module is None:
        raise InputError("nothing that runs was marked: the places are compiled to nothing")
    write_output(options.output, signed(patched.module.content, key))
    effects = effects_document(found.source, patched)
    following = next_command(options.output, options.kernel, options.object)
    facts = effect_facts(effects)
    _write_page(
        options,
        output,
        kernel,
        patched.objects,
        patched.diffs,
        module=patched.module,
        facts=facts,
        patches=(("the marks", found.source.patch),),
    )
    tried = check(patched.module.content, found.source) if check is not None else None
    if output.json:
        document = patch_document(patched, options.output, following)
        document |= {"marks": marks_document(found.source), "effects": effects}
        output.document(document if tried is None else {**document, "check": tried.as_json()})
    elif not output.quiet:
        shown_marks = render_marks(
            found.source, patched, effects, options.output, verbose=output.verbose, following=following
        )
        output.out.print(shown_marks)
        if tried is not None:
            output.out.print(render_mark_check(tried))
    return 0


def _check(options: argparse.Namespace, kernel: Kernel) -> Callable[[bytes, MarkedSource], MarkCheck] | None:
    """What `--check` does with the module, where it is wanted; its arguments are read at once."""
    if options.check is None:
        return None
    from builder.preflight.marked import call_arguments, check_marks  # here, for a simulated kernel is slow to import

    arguments = call_arguments(options.check, kernel)
    return lambda module, source: check_marks(module, source, kernel, arguments, named_paths(options.object))


def _write_page(
    options: argparse.Namespace,
    output: Output,
    kernel: Kernel,
    objects: PatchObjects | None = None,
    diffs: Sequence[Diff] = (),
    *,
    module: Module | None = None,
    refusals: Sequence[Refusal] = (),
    facts: tuple[tuple[str, str], ...] = (),
    patches: tuple[tuple[str, str], ...] = (),
) -> None:
    """The page, where one is wanted; `objects` were compiled and compared."""
    if options.html is None:
        return
    from builder.cli.page import ModulePage, write_build  # here, for a page is slow to import

    labelled = tuple((p.path, found) for p, found in zip(objects.pairs, diffs, strict=True)) if objects else ()
    notes = objects.warnings if objects else ()
    if objects:
        facts = (*facts, *source_facts(objects.tree))
    page = ModulePage(labelled, kernel.release, options.output, options, module, tuple(refusals), notes, facts, patches)
    write_build(options.html, page, verbose=output.verbose)


def _marks(options: argparse.Namespace) -> tuple[Mark, ...]:
    rows = [{"words": options.words, **(options.first or {})}] if options.words else []
    if options.first and not options.words:
        raise UsageError("an option of a mark stands behind its place")
    marks = [_mark(row) for row in [*rows, *(options.more or [])]]
    marks += _from_file(options.file) if options.file else []
    if not marks:
        raise UsageError("say a PLACE, such as vfs_read or fs/open.c:1300, or --file MARKS.toml")
    return tuple(marks)


def _mark(row: Mapping[str, Any]) -> Mark:
    said = {key.removeprefix("mark_"): value for key, value in row.items() if key != "words"}
    kinds = [kind for kind in ("count", "sum", "hist", "time") if kind in said]
    if len(kinds) > 1:
        raise UsageError(f"--{kinds[0]} and --{kinds[1]} exclude each other: say two marks")
    words = row["words"]
    kind = kinds[0] if kinds else ""
    if kind and len(words) > 1:
        raise UsageError(f"--{kind} records nothing: {words[1]!r} would be in no record")
    if kind and "stack" in said:
        raise UsageError(f"--{kind} records nothing, and so no stack")
    value = said.get(kind) if kind in ("sum", "hist", "time") else ""
    if kind in ("sum", "hist", "time") and not (isinstance(value, str) and value.strip()):
        raise UsageError(f"--{kind} takes an expression, not {value!r}")
    if ("until" in said or "until_value" in said) and (kind != "time" or "until" not in said):
        raise UsageError("--until and --until-key say where a --time KEY ends")
    if kind == "time" and "until" not in said:
        raise UsageError("--time KEY measures to another place: say it with --until PLACE")
    return Mark(
        place=words[0],
        words=tuple(words[1:]),
        condition=said.get("condition", ""),
        every=_number("every", said.get("every", 1)),
        limit=_number("limit", said.get("limit", 0)),
        aggregate=kind,
        value=value or "",
        until=said.get("until", ""),
        until_value=said.get("until_value", ""),
        stack="stack" in said,
        unsafe="unsafe" in said,
        name=_event(said.get("name", "")),
    )


def _check_values(row: Mapping[str, Any], path: Path) -> None:
    """InputError for an option with a value of another kind than it takes."""
    for key, value in row.items():
        if key in _SWITCHES:
            fits, wanted = isinstance(value, bool), "true or false"
        elif key in ("every", "limit"):
            fits, wanted = isinstance(value, int) and not isinstance(value, bool), "a number"
        elif key != "words":
            fits, wanted = isinstance(value, str) and bool(value.strip()), "a string"
        else:
            continue
        if not fits:
            raise InputError(f"the mark at {row['place']}: {key} is {wanted}, not {value!r}", where=path)


def _number(option: str, value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        raise UsageError(f"--{option} takes a number, not {value!r}") from None
    if number < (1 if option == "every" else 0):
        raise UsageError(f"--{option} takes a number of hits from {1 if option == 'every' else 0} on, not {number}")
    return number


def _event(name: str) -> str:
    if name and not (name.isidentifier() and name.isascii() and len(name) < 60):
        raise UsageError(f"--as takes the name of an event (letters, digits, _), not {name!r}")
    return name


_KEYS = {"place", "words", *_OF_A_MARK, *_SWITCHES}


def _from_file(path: Path) -> list[Mark]:
    """The tables `[[mark]]` of a file: `place`, `words`, and the options by their names."""
    try:
        document = tomllib.loads(read_input(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is no TOML: {error}", where=path) from None
    rows = document.get("mark")
    if not isinstance(rows, list) or set(document) != {"mark"}:
        raise InputError("holds no tables [[mark]], or something else beside them", where=path)
    out = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("place"), str):
            raise InputError("a [[mark]] has no place", where=path)
        if unknown := sorted(set(row) - _KEYS):
            keys = ", ".join(sorted(_KEYS))
            raise InputError(f"the mark at {row['place']}: {unknown[0]!r} is no key; there are {keys}", where=path)
        words = row.get("words", [])
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise InputError(f"the mark at {row['place']}: words is a list of strings", where=path)
        _check_values(row, path)
        known = {name: dest for name, (dest, _, _) in _OF_A_MARK.items()}
        said = {f"mark_{known.get(k, k)}": v for k, v in row.items() if k not in ("place", "words") and v is not False}
        out.append(_mark({"words": [row["place"], *words], **said}))
    return out

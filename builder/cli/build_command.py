"""`bespoke build OLD NEW --kernel K -o X.ko`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from builder.acquire.pairs import find_pairs
from builder.cli.common import (
    Output,
    add_allow,
    add_html,
    add_kernel,
    add_set,
    add_source_diff,
    check_html,
    check_output,
    named_paths,
    open_kernel,
    source_shifts,
    wanted_name,
    write_output,
)
from builder.cli.signing import add_signing, signed, signing_key
from builder.compose.outcome import Diff
from builder.compose.owner import Objects, for_each_owner
from builder.emit import free_module_name
from builder.emit.module import Module
from builder.errors import Allowed, Refusal, RefusedError, UsageError
from builder.pipeline import ModulePlan, build_parts, diff_again, running_parts
from builder.report.following import next_command


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD", help="the old object, or a tree of objects")
    parser.add_argument("new", type=Path, metavar="NEW", help="the new one")
    add_kernel(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="X.ko", help="the module to write")
    parser.add_argument(
        "--pair",
        nargs=2,
        type=Path,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="one more pair of objects",
    )
    parser.add_argument("--name", metavar="NAME", help="the module's name (default: that of the output file)")
    parser.add_argument("--in", dest="inside", metavar="OBJECT", help="the pair's owner: vmlinux or a module")
    parser.add_argument("--replace", action="store_true", help="take the place of all earlier livepatches")
    parser.add_argument(
        "--on", type=Path, metavar="V1.ko", help="stack on an earlier module of ours and share its state"
    )
    add_source_diff(parser)
    parser.add_argument(
        "--source",
        metavar="TREE",
        help="the kernel's source (`linux`: its package), to compile callers in other files of what has no ftrace "
        "location",
    )
    add_allow(parser)
    add_signing(parser)
    add_set(parser)
    add_html(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, output: Output) -> int:
    allowed = Allowed.parse(options.allow, options.set)
    given = named_paths(options.object)
    key = signing_key(options)
    pairs = _pairs(options)
    check_output(options.output)
    check_html(options.html, options.output, *(path for pair in pairs for path in pair))
    shifts = source_shifts(options.source_diff)
    name = wanted_name(options.name, options.output)
    kernel = open_kernel(options)
    free_module_name(name, kernel)
    compared = [diff_again(old, new, shifts=shifts, allowed=allowed) for old, new in pairs]
    objects = Objects(kernel, given)
    # So the kernel runs the pairs; all that is said of them is said of these.
    diffs, owners = for_each_owner(compared, [options.inside] * len(pairs), objects)
    pairs = [pair for pair, found in zip(pairs, compared, strict=True) for each in diffs if each is found]
    plan = ModulePlan(name, replace=options.replace, on=options.on, allowed=allowed)
    if options.source is None:
        diffs = list(running_parts(diffs, owners, objects, allowed=allowed).diffs)
    else:
        pairs, owners, diffs = _with_callers(options.source, pairs, diffs, owners, objects, plan, output)
    try:
        module = build_parts(diffs, owners, objects, plan)
    except RefusedError as refused:
        if options.html:
            _write_page(options, pairs, diffs, kernel.release, None, refused.refusals)
        raise
    if module is not None:
        write_output(options.output, signed(module.content, key))
    if options.html:
        _write_page(options, pairs, diffs, kernel.release, module)
    if module is None:
        return _nothing(diffs, output)
    if output.json:
        output.document(module.manifest.as_json())
    elif not output.quiet:
        # Here, for what people are shown is slow to import, and a document needs none of it.
        from builder.report.build import render_build

        output.out.print(
            render_build(
                module.manifest,
                [d.as_json() for d in diffs],
                options.output,
                output.verbose,
                next_command(options.output, options.kernel, options.object),
            )
        )
    return 0


def _with_callers(
    source: str,
    pairs: Sequence[tuple[Path, Path]],
    diffs: Sequence[Diff],
    owners: Sequence[str | None],
    objects: Objects,
    plan: ModulePlan,
    output: Output,
) -> tuple[list[tuple[Path, Path]], list[str | None], list[Diff]]:
    """The pairs, their owners and what changed, with those of callers that are compiled from the kernel's source."""
    # Here, for what compiles is slow to import, and most builds have all that they need.
    from builder.acquire.cache import cache_root
    from builder.acquire.compile import Compiling
    from builder.acquire.pairs import ObjectPair
    from builder.acquire.patch import PatchObjects
    from builder.acquire.sources import find_source
    from builder.pipeline import source_target, with_all_callers

    tree = find_source(source, source_target(objects.kernel), allowed=plan.allowed)
    given = tuple(ObjectPair(str(new), owner or "", old, new) for (old, new), owner in zip(pairs, owners, strict=True))
    names = tuple(pair.path for pair in given)
    found = PatchObjects(tree, names, (), len(given), given, (), cache_root() / "logs")
    with output.progress() as shown:
        found, every, parts = with_all_callers(found, diffs, owners, objects, plan, Compiling(progress=shown.count))
    for warning in found.warnings:
        output.error(f"{warning.code}: {warning.message}")
    return [(pair.old, pair.new) for pair in found.pairs], list(every), list(parts.diffs)


def _write_page(
    options: argparse.Namespace,
    pairs: Sequence[tuple[Path, Path]],
    diffs: Sequence[Diff],
    release: str,
    module: Module | None,
    refusals: Sequence[Refusal] = (),
) -> None:
    from builder.cli.page import ModulePage, write_build  # here, for a page is slow to import

    labelled = tuple((str(new), found) for (_, new), found in zip(pairs, diffs, strict=True))
    page = ModulePage(labelled, release, options.output, options, module, tuple(refusals))
    write_build(options.html, page, verbose=options.verbose)


def _pairs(options: argparse.Namespace) -> list[tuple[Path, Path]]:
    rows = [(options.old, options.new), *map(tuple, options.pair)]
    out: list[tuple[Path, Path]] = []
    for old, new in rows:
        if old.is_dir() != new.is_dir():
            raise UsageError("OLD and NEW must both be objects or both be directories")
        if old.is_dir():
            pairs, unpaired = find_pairs(old, new)
            if unpaired:
                raise UsageError(f"only one of the trees has {unpaired[0]}" + _more(len(unpaired) - 1))
            if not pairs:
                raise UsageError(f"there are no objects in {old}")
            out += [(first, second) for _, first, second in pairs]
        else:
            out.append((old, new))
    return out


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""


def _nothing(diffs: list[Diff], output: Output) -> int:
    if output.json:
        output.document({"verdict": "unchanged", "pairs": [d.as_json() for d in diffs]})
    else:
        for warning in dict.fromkeys(w for d in diffs for w in d.judged.warnings):
            output.error(f"{warning.code}: {warning.message}")
        output.error("nothing changed that has to ship; no module was written")
    return 3

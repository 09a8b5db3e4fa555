"""Is what is compiled here the code that runs? Unmodified objects against the stock kernel, by the hundred.

    python -m tests.acquire.campaign [--kernel K] [--source S] [--objects N | --one-line N] [--seed N]

Every function of every object that the running kernel has must be found there
byte by byte. With the source of another release the functions that differ are
the answer, and there must be some. `--one-line` changes one line in each of N files
over all directories: each is built or refused by a true reason, none is "unchanged".
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.progress import track

from builder.acquire.compile import AS_USUAL, Compiled
from builder.acquire.kbuild import Command
from builder.acquire.packages import newest_kernel
from builder.acquire.source import SourceTree
from builder.acquire.sources import SourceTarget, find_source
from builder.acquire.work import Work
from builder.binary.kernel import Kernel
from builder.binary.reader import read_object
from builder.compose.overridden import is_overridden
from builder.compose.owner import Objects
from builder.compose.running import Running
from builder.compose.runpre import Match, Matcher
from builder.errors import BespokeError
from builder.pipeline import diff_objects
from tests.acquire.one_line import Tried, one_line


@dataclass(frozen=True, slots=True)
class Judged:
    """One object: how many functions were found as they are, and why the others were not.

    `overridden` are weak ones that the kernel has another definition of.
    """

    name: str
    found: int
    absent: int
    overridden: tuple[str, ...]
    differing: tuple[tuple[str, str], ...]


def choose(tree: SourceTree, count: int, seed: int, *, modules: bool) -> list[Command]:
    """`count` objects of vmlinux, or of modules, at random."""
    with tree.objects() as objects:
        names = [name for name, file in objects.linked() if file.endswith(".c")]
        random.Random(seed).shuffle(names)
        chosen: list[Command] = []
        for name in names:
            command = objects.of_object(name)
            if (command.owners != ("vmlinux",)) == modules and len(command.owners) == 1:
                chosen.append(command)
            if len(chosen) == count:
                break
    return chosen


def judge(command: Command, compiled: Compiled, running: Running) -> Judged:
    """Look for each function of one object in what runs."""
    obj = read_object(compiled.object)
    view = diff_objects(obj, obj).comparison.old
    matcher = Matcher(view, running)
    found = absent = 0
    overridden: list[str] = []
    differing: list[tuple[str, str]] = []
    for atom in view.atoms:
        if not atom.is_function:
            continue
        places = [(name, symbol) for name in atom.names for symbol in running.named(name)]
        results = [matcher.match(atom, s.place, name=n, sympos=s.sympos, limit=s.size) for n, s in places]
        if not results:
            absent += 1
        elif any(isinstance(result, Match) for result in results):
            found += 1
        elif is_overridden(atom, running):
            overridden.append(atom.name)
        else:
            differing.append((atom.name, getattr(results[0], "reason", "")))
    return Judged(command.object, found, absent, tuple(overridden), tuple(differing))


def campaign(kernel: Kernel, tree: SourceTree, count: int, seed: int) -> list[Judged]:
    """Half of the objects from vmlinux, half from modules."""
    commands = [*choose(tree, count // 2, seed, modules=False), *choose(tree, count - count // 2, seed, modules=True)]
    compiled = Work(tree, AS_USUAL).compile_old(commands)
    objects = Objects(kernel)
    return [
        judge(command, made, objects.get(command.owners[0]))
        for command, made in track(zip(commands, compiled, strict=True), total=len(commands))
    ]


def tell(rows: Iterable[Tried]) -> int:
    """A line for each file that was not built, and how many there are of each kind; 1 if one is wrong."""
    total: Counter[str] = Counter()
    for row in rows:
        total[row.outcome] += 1
        for reason in row.reasons or [""] * (row.outcome == "unchanged"):
            print(f"{row.source}: {row.function}: {row.outcome} {reason}", flush=True)
            if row.outcome == "refused":
                total[f"refused {reason.partition(' ')[0]}"] += 1
    print(", ".join(f"{count} {what}" for what, count in sorted(total.items())))
    return 1 if total["unchanged"] or total["error"] else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acquire.campaign")
    parser.add_argument("--kernel", metavar="K", help="image or release (default: the newest 6.1)")
    parser.add_argument("--source", metavar="S", help="another source than the kernel's own")
    parser.add_argument("--objects", type=int, default=200, metavar="N")
    parser.add_argument("--one-line", type=int, metavar="N", help="patch N files instead, each by one line")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args(arguments)
    try:
        kernel = Kernel.open(options.kernel or newest_kernel("6.1"))
        tree = find_source(options.source, SourceTarget(kernel.release, banner=kernel.banner))
        if options.one_line:
            return tell(one_line(tree, kernel, options.one_line, options.seed))
        rows = campaign(kernel, tree, options.objects, options.seed)
    except BespokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for row in rows:
        for name, reason in row.differing:
            print(f"{row.name}: {name}: {reason}")
    total: Counter[str] = Counter()
    for row in rows:
        for name in row.overridden:
            print(f"{row.name}: {name}: weak, and overridden")
        total.update(found=row.found, absent=row.absent, differing=len(row.differing), weak=len(row.overridden))
    print(
        f"{len(rows)} objects: {total['found']} functions found as they run, {total['differing']} differ, "
        f"{total['weak']} are weak and overridden, {total['absent']} are not there by name"
    )
    return 1 if total["differing"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

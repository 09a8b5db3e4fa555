"""Are objects the same where what the distribution's build generated is taken from its packages, and where it is made?

    python -m tests.acquire.readymade [--kernel K] [--objects N] [--seed N]

The source of a kernel is prepared in both ways. Both must list the same objects, to be made by the same commands, and
N of these, drawn at random, must be the same byte by byte. Prints what differs; exit status 1 where anything does.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from builder.acquire import apt
from builder.acquire.compile import compile_object, in_parallel, object_key
from builder.acquire.kbuild import Command
from builder.acquire.packages import kernel_config, kernel_groups, kernel_version, newest_kernel
from builder.acquire.readymade import READYMADE
from builder.acquire.source import SourceTree, fetch_source, prepared, unpack_package
from builder.errors import InputError
from tests.support.campaigns import run, told


def made_here(release: str, tree: SourceTree) -> SourceTree:
    """The same source, all of it made by its own makefiles."""
    version = kernel_version(release)
    config = kernel_config(release, version)
    name = f"linux-source-{'.'.join(release.split('.')[:2])}"

    def unpack(root: Path) -> None:
        unpack_package(apt.lookup(name, version, kernel_groups(release)), root)

    return prepared(f"{tree.identity}_by-make", release, config, tree.compiler, unpack)


def held(one: SourceTree, other: SourceTree, count: int, seed: int) -> tuple[int, int, list[str]]:
    """(objects that are listed, objects compared, what differs)."""
    with one.objects() as ours, other.objects() as theirs:
        lists = [{command.object: command for command in rows.all()} for rows in (ours, theirs)]
    wrong = sorted(f"{name}: {a and a.words} {b and b.words}" for name in lists[0].keys() | lists[1].keys()
                   if (a := lists[0].get(name)) != (b := lists[1].get(name)))  # fmt: skip
    rows = [command for _, command in sorted(lists[0].items()) if command.owners and not command.assembler]
    # Into the build id of the vDSO go the place of the tree, and the salt of the build, which a kernel's file lacks.
    rows = [command for command in rows if "/vdso-image-" not in command.object]
    drawn = random.Random(seed).sample(rows, min(count, len(rows)))

    def differs(command: Command) -> str:
        try:
            found = [
                compile_object(tree, command, root=tree.root, key=object_key(tree, command, {})).object.read_bytes()
                for tree in (one, other)
            ]
        except InputError as error:
            return str(error)
        return "" if found[0] == found[1] else f"{command.object}: {len(found[0])} and {len(found[1])} bytes"

    wrong += filter(None, in_parallel(differs, drawn, name=lambda command: command.object))
    return len(lists[0]), len(drawn), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", metavar="K", help="a release (default: the newest of 6.1)")
    parser.add_argument("--objects", type=int, default=300, metavar="N", help="objects to compare (default 300)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args()
    release = options.kernel or newest_kernel("6.1")
    tree = fetch_source(release)
    if not (tree.root / READYMADE).is_dir():
        raise InputError("was prepared without them", where=tree.place)
    listed, compared, wrong = held(tree, made_here(release, tree), options.objects, options.seed)
    return told(wrong, f"{tree.identity}: {listed} objects listed, {compared} compared,")


if __name__ == "__main__":
    run(main)

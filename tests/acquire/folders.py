"""Does the list of a single folder say what the list of all objects says? Every source of a configuration is asked.

    python -m tests.acquire.folders [--kernel K] [--source S] [--together N] [--folders N] [--seed N]

Of each source that `makers` gives folders for, the commands by the lists of these folders (`record_folders`, `together`
of them by one make; all, or a number drawn at random) are held against those of the whole list: the same objects by
the same words, options of objtool and owners, or none at all, which has the whole list made. Prints what differs;
exit status 1 where anything does.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.progress import track

from builder.acquire.kbuild import Command, ListedObjects, record_folders
from builder.acquire.makers import makers
from builder.acquire.packages import newest_kernel
from builder.acquire.source import SourceTree
from builder.acquire.sources import SourceTarget, find_source
from tests.support.campaigns import run, told


class Naming:
    """The makefiles that name an object or a source, from one reading of them all."""

    def __init__(self, root: Path) -> None:
        self._found: defaultdict[str, set[str]] = defaultdict(set)
        for folder, folders, files in os.walk(root):
            here = os.path.relpath(folder, root)
            out = {"tools", "Documentation", "scripts", "rust", ".bespoke"}
            folders[:] = [name for name in folders if (name == "x86" if here == "arch" else name not in out)]
            for name in files if here != "." else ():
                if re.fullmatch(r"(Makefile|Kbuild).*|.*\.mk", name):
                    text = Path(folder, name).read_text("utf-8", "surrogateescape")
                    for word in set(re.findall(r"([\w+-]+)\.[oc]", text)):
                        for start in range(len(word)):
                            self._found[word[start:]].add(os.path.join(here, name))

    def __call__(self, root: Path, stem: str) -> list[str]:
        return sorted(self._found.get(stem, ()))


def differing(path: str, whole: list[Command], single: list[Command]) -> str:
    """What a source's folders tell otherwise; empty for nothing, and where they tell nothing."""
    if not single or single == whole:
        return ""
    names = [[command.object for command in commands] for commands in (whole, single)]
    return f"{path}: {names[0]} by all, {names[1]} by its folders" + (", other commands" * (names[0] == names[1]))


def held(tree: SourceTree, together: int, count: int | None, seed: int) -> tuple[int, dict[str, int], list[str]]:
    """(folders, sources by how they are told, what differs)."""
    naming = Naming(tree.root)
    ways = dict.fromkeys(("by its folders", "by all, their folders tell nothing", "by all"), 0)
    wrong: list[str] = []
    with tree.objects() as whole, tempfile.TemporaryDirectory() as work:
        sources = {os.path.normpath(c.source) for c in whole.all() if c.source.endswith(".c")}
        places = {path: makers(tree.root, path, naming) for path in sorted(sources) if (tree.root / path).is_file()}
        folders = sorted({folder for rows in places.values() for folder in rows or ()})
        if count is not None:
            folders = sorted(random.Random(seed).sample(folders, min(count, len(folders))))
        random.Random(seed).shuffle(folders)
        lists: dict[str, Path] = {}
        for start in track(range(0, len(folders), together), description="folders", transient=True):
            batch = {name: Path(work, f"{start + n}.db") for n, name in enumerate(folders[start : start + together])}
            record_folders(tree.root, [*tree._make(), "-j2"], batch)
            lists |= batch
        for path, rows in places.items():
            if rows is None:
                ways["by all"] += 1
            elif all(folder in lists for folder in rows):
                found: dict[str, Command] = {}
                for folder in rows:
                    with ListedObjects(lists[folder]) as listed:
                        found |= {command.object: command for command in listed.of_source(path)}
                ways["by its folders" if found else "by all, their folders tell nothing"] += 1
                if fault := differing(path, whole.of_source(path), [found[name] for name in sorted(found)]):
                    wrong.append(fault)
    return len(folders), ways, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", metavar="K", help="a release (default: the newest of 6.1)")
    parser.add_argument("--source", metavar="S", help="as that of `bespoke patch`")
    parser.add_argument("--together", type=int, default=25, metavar="N", help="folders by one make (default 25)")
    parser.add_argument("--folders", type=int, metavar="N", help="so many, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args()
    release = options.kernel or newest_kernel("6.1")
    tree = find_source(options.source, SourceTarget(release))
    count, ways, wrong = held(tree, options.together, options.folders, options.seed)
    sources = ", ".join(f"{number} {how}" for how, number in ways.items())
    return told(wrong, f"{tree.identity}: {count} folders; sources: {sources};")


if __name__ == "__main__":
    run(main)

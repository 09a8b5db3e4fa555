"""One line more in one function of many files: each becomes a module, or is refused by a reason that is shown.

Files are drawn over all directories of the configuration. The line is an instruction, so that something that
runs has changed, whatever the compiler makes of the rest: to hear that nothing has is wrong.
"""

from __future__ import annotations

import difflib
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from builder.acquire.cache import scratch
from builder.acquire.compile import AS_USUAL
from builder.acquire.kbuild import Command
from builder.acquire.source import SourceTree
from builder.acquire.work import Work
from builder.binary.kernel import Kernel
from builder.binary.reader import read_object
from builder.compose.owner import Objects
from builder.errors import BespokeError, RefusedError
from builder.pipeline import ModulePlan, patch

LINE = '\tasm volatile("pause");\n'

#: a function's head at the left margin, and the brace of its body
HEAD = r"^(?!#|\s|typedef|extern)[^\n;={}#]*?\b(\w+)\([^;{}=]*\)[^;{}=()]*\n\{\n"


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one file: `outcome` is built, refused, unchanged or error; `reasons` say why not built."""

    source: str
    function: str
    outcome: str
    reasons: tuple[str, ...] = ()


def directories(tree: SourceTree, seed: int) -> list[list[Command]]:
    """The C objects of each directory of vmlinux and the modules; directories and objects in random order."""
    by_folder: defaultdict[str, list[Command]] = defaultdict(list)
    with tree.objects() as objects:
        for command in objects.all():
            if command.owners and command.source.endswith(".c") and (tree.root / command.source).is_file():
                by_folder[os.path.dirname(os.path.normpath(command.source))].append(command)
    chance = random.Random(seed)
    found = [by_folder[folder] for folder in sorted(by_folder)]
    for commands in found:
        chance.shuffle(commands)
    chance.shuffle(found)
    return found


def choose(tree: SourceTree, commands: Sequence[Command], seed: int) -> tuple[str, str, str, str] | None:
    """(path, function, old text, new text): a function that the object of one of `commands` holds; None for no such."""
    for command in commands:
        path = os.path.normpath(command.source)
        text = (tree.root / path).read_text("utf-8", "surrogateescape")
        (made,) = Work(tree, AS_USUAL).compile_old([command])
        obj = read_object(made.object)
        compiled = {
            symbol.name
            for symbol in obj.symbols
            if symbol.is_function and symbol.is_defined and obj.sections[symbol.shndx].name == f".text.{symbol.name}"
        }
        heads = [match for match in re.finditer(HEAD, text, re.MULTILINE) if match[1] in compiled]
        names = [match[1] for match in heads]
        if single := [match for match in heads if names.count(match[1]) == 1]:
            match = random.Random(f"{seed}{path}").choice(single)
            return path, match[1], text, text[: match.end()] + LINE + text[match.end() :]
    return None


def attempt(tree: SourceTree, objects: Objects, chosen: tuple[str, str, str, str]) -> Tried:
    """The way of `bespoke patch` with one file."""
    path, function, old, new = chosen
    before, after = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (old, new))
    with scratch("one-line") as folder:
        place = Path(folder) / "line.patch"
        text = "".join(difflib.unified_diff(before, after, f"a/{path}", f"b/{path}"))
        place.write_text(text, "utf-8", "surrogateescape")
        try:
            made = patch([place], tree, objects, ModulePlan("one_line"), AS_USUAL)
        except RefusedError as refused:
            rows = dict.fromkeys(f"{row.code} {row.symbol}: {row.message}" for row in refused.refusals)
            return Tried(path, function, "refused", tuple(rows))
        except BespokeError as error:
            return Tried(path, function, "error", (str(error),))
    return Tried(path, function, "unchanged" if made.module is None else "built")


def one_line(tree: SourceTree, kernel: Kernel, count: int, seed: int, first: Sequence[str] = ()) -> Iterator[Tried]:
    """`count` files, each of another directory as long as there are any; those of the directories `first` first."""
    folders = directories(tree, seed)
    folders.sort(key=lambda commands: os.path.dirname(os.path.normpath(commands[0].source)) not in first)
    objects = Objects(kernel)
    done = 0
    for commands in track(folders, description="one line"):
        if done == count:
            return
        if (chosen := choose(tree, commands, seed)) is not None:
            done += 1
            yield attempt(tree, objects, chosen)

"""Headers that kbuild generates from other headers: constants for assembler, sizes for tables.

kbuild compiles `kernel/bounds.c`, `arch/*/kernel/asm-offsets.c` and a few more to
assembler text, and makes a header of its `->NAME VALUE` lines, such as the offset
of a structure's member for assembler (scripts/Makefile.lib and `Kbuild`, Linux 6.1).
A patch that moves this member changes the generated header, and with it objects
that no `#include` of the patched file leads to. `changed_values` compiles these
texts with and without the patch, so that such a patch can be refused by name.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.acquire import sums
from builder.acquire.compile import not_compiled, read_dependencies
from builder.acquire.source import SourceTree
from builder.acquire.tools import run
from builder.acquire.tree_state import STATE
from builder.errors import ToolError

#: where the recorded commands of such texts lie in a prepared tree
RECORDS = (
    "kernel/.bounds.s.cmd",
    "arch/*/kernel/.asm-offsets.s.cmd",
    "scripts/mod/.devicetable-offsets.s.cmd",
    "kernel/sched/.rq-offsets.s.cmd",
)

#: in a tree: what these records say, and when the state was kept that they are of
GENERATORS = ".bespoke/generators.json"

_COMMAND = re.compile(r"^(?:saved)?cmd_\S+ := (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Generator:
    """A text that constants are generated from: its `source`, the command that compiles it, the files that it reads."""

    source: str
    command: str
    reads: frozenset[str]


def generators(root: Path) -> list[Generator]:
    """Those of a prepared tree."""
    found: list[Generator] = []
    for record in sorted(path for pattern in RECORDS for path in root.glob(pattern)):
        text = record.read_text()
        command = _COMMAND.search(text)
        if command is None:
            raise ToolError("no recorded command", where=record)
        source = os.path.relpath(record.parent, root) + "/" + record.name[1:].removesuffix(".s.cmd") + ".c"
        reads = frozenset(os.path.normpath(name) for name in re.findall(r"^  (\S+) \\$", text, re.MULTILINE)) | {source}
        found.append(Generator(source, command[1], reads))
    return found


def tree_generators(tree: SourceTree, changed: Collection[str]) -> list[Generator]:
    """Those of a tree that read one of the `changed` files; kept for as long as the tree is left as it is."""
    state, place = tree.place / STATE, tree.place / GENERATORS
    now = state.stat().st_mtime_ns if state.is_file() else None
    known = sums.read_json(place) if now is not None else None
    if known is not None and known["state"] == now:
        found = [Generator(source, command, frozenset(reads)) for source, command, reads in known["texts"]]
    else:
        found = generators(tree.root)
        if now is not None and now == state.stat().st_mtime_ns:
            texts = [(text.source, text.command, sorted(text.reads)) for text in found]
            sums.keep_json(place, {"state": now, "texts": texts})
    return [text for text in found if not text.reads.isdisjoint(changed)]


def changed_values(
    root: Path,
    shadow: Path,
    work: Path,
    texts: Sequence[Generator],
    accept: Callable[[tuple[str, ...]], None] = lambda dependencies: None,
) -> list[tuple[str, str, str]]:
    """(source, old line, new line) of every constant generated from `texts` that differs in `shadow` from `root`.

    `work` is a directory for what compiling leaves. `accept` sees what was read in `shadow` and may raise.
    """
    found: list[tuple[str, str, str]] = []
    for text in texts:
        before, after = (_values(text.command, place, work) for place in (root, shadow))
        accept(read_dependencies(work / "constants.d"))
        found += [
            (text.source, before.get(name, "absent"), after.get(name, "absent"))
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ]
    return found


def _values(command: str, place: Path, work: Path) -> dict[str, str]:
    """Name -> line of each constant in the text that the command makes, run in `place`."""
    words = shlex.split(command.partition(";")[0])
    target = work / "constants.s"
    words[words.index("-o") + 1] = str(target)
    words = [f"-Wp,-MMD,{work}/constants.d" if word.startswith("-Wp,-MMD,") else word for word in words]
    try:
        run(words, cwd=place)
    except ToolError as error:
        raise not_compiled(f"does not compile: {error.message}", where=words[-1]) from error
    lines = re.findall(r"^\s*\.ascii\s+\"(->(\w+) [^\"]*)\"", target.read_text(), re.MULTILINE)
    return {name: line for line, name in lines}

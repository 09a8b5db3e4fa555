"""Where in the source a function of the running kernel may come from, by its name and by what it calls.

A name of the symbol table need not stand in the source: the compiler adds to it (`foo.constprop.0`), and macros make
it (`__do_sys_foo`). So files with the name come first, those with what looks like its definition before others; where
that is not one file, then also all that have the name of what it calls, or of a macro or inline function that is made
of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from builder.acquire.compile import Compiling
from builder.acquire.kbuild import Command, ListedObjects
from builder.acquire.names import uses
from builder.acquire.pairs import ObjectPair
from builder.acquire.source import SourceTree
from builder.acquire.tools import run_grep
from builder.acquire.work import Work

_SYSCALL = re.compile(r"__(?:do_compat|se_compat|x64|x32_compat|ia32_compat|ia32|do|se)_sys_")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A function of `owner` (`vmlinux` or a module) whose source is looked for; `calls` are functions that it calls."""

    owner: str
    name: str
    calls: tuple[str, ...]

    @property
    def word(self) -> str:
        """What of its name the source has."""
        return _SYSCALL.sub("", self.name.partition(".")[0])


def candidates(
    wanted: Collection[Wanted], tree: SourceTree, objects: ListedObjects, limit: int
) -> dict[Wanted, list[Command]]:
    """For each function the objects that it may be in, the likeliest first."""
    commands: dict[str, list[Command]] = {}
    files = dict(objects.linked())
    named = _files_with({want.word for want in wanted}, tree)
    defined = {word: {path for path, text in rows if _is_definition(word, text)} for word, rows in named.items()}
    # Searching for users reads the source several times for each name: only where the definition is not plain.
    unsure = [want for want in wanted if len(defined.get(want.word, ())) != 1]
    using = {name: _users(name, tree, files.values(), limit) for name in sorted({n for w in unsure for n in w.calls})}
    out: dict[Wanted, list[Command]] = {}
    for want in wanted:
        having = {path for path, _ in named.get(want.word, ())}
        users = set().union(*(using[name] for name in want.calls if name in using))
        rank = {
            path: (path not in defined.get(want.word, ()), path not in users, path not in having, path)
            for path in having | users
        }
        rows = []
        for path in sorted(rank, key=rank.__getitem__):
            if path not in commands:
                commands[path] = objects.of_source(path)
            rows += [c for c in commands[path] if want.owner in c.owners and not c.assembler]
        out[want] = rows
    return out


def compiled_alike(commands: Sequence[Command], tree: SourceTree, how: Compiling) -> list[list[ObjectPair]]:
    """For each command its object as a pair for each owner, the new version the same as the old.

    Raises as `compile_object`.
    """
    made = Work(tree, how).compile_old(commands)
    return [
        [ObjectPair(path=c.object, owner=owner, old=found.object, new=found.object) for owner in c.owners]
        for c, found in zip(commands, made, strict=True)
    ]


def _files_with(words: Collection[str], tree: SourceTree) -> dict[str, list[tuple[str, str]]]:
    """Word -> (file, line of text) of each place where it stands."""
    found: dict[str, list[tuple[str, str]]] = {}
    texts: dict[str, list[str]] = {}
    for path, line, word in run_grep(tree.root, words, whole_words=True):
        if path not in texts:
            texts[path] = (tree.root / path).read_text("utf-8", "surrogateescape").split("\n")
        found.setdefault(word, []).append((path, texts[path][line - 1]))
    return found


def _is_definition(word: str, line: str) -> bool:
    """Whether a line looks like the head of a function of that name, or of a macro that makes one of it."""
    return bool(re.match(rf"[A-Za-z_][^;=]*\b{re.escape(word)}\s*[(,)]", line)) and not line.rstrip().endswith(";")


def _users(name: str, tree: SourceTree, sources: Collection[str], limit: int) -> frozenset[str]:
    found = uses(tree.root, {name}, set(sources), limit=limit)
    return found.sources if found.all else frozenset()

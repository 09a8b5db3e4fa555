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
from itertools import chain
from pathlib import Path

from builder.acquire import sums
from builder.acquire.cache import path_of
from builder.acquire.compile import Compiling
from builder.acquire.kbuild import Command, ListedObjects
from builder.acquire.names import TreeText, uses
from builder.acquire.pairs import ObjectPair
from builder.acquire.source import LISTING, SourceTree
from builder.acquire.tools import run_grep
from builder.acquire.tree_state import STATE
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
    """For each function the objects that it may be in, the likeliest first; where those are is kept, for the source is
    read many times to find it."""
    places = {want: _remembered(want, tree, limit) for want in wanted}
    known = {want: kept for want, place in places.items() if (kept := sums.read_json(place)) is not None}
    for want, paths in _ranked([want for want in places if want not in known], tree, objects, limit).items():
        sums.keep_json(places[want], paths)
        known[want] = paths
    commands = {path: objects.of_source(path) for path in dict.fromkeys(chain.from_iterable(known.values()))}
    return {
        want: [c for path in known[want] for c in commands[path] if want.owner in c.owners and not c.assembler]
        for want in places
    }


def _remembered(want: Wanted, tree: SourceTree, limit: int) -> Path:
    """Where the files of a function are kept: by the tree, with what was generated and listed in it."""
    made = [(tree.place / kept).stat().st_mtime_ns for kept in (STATE, LISTING)]
    return path_of(f"narrowed/{tree.identity}", "callers", _SCHEME, want.word, want.calls, limit, *made)


_SCHEME = 1
"""To be raised with every change to how files are ranked."""


def _ranked(wanted: Sequence[Wanted], tree: SourceTree, objects: ListedObjects, limit: int) -> dict[Wanted, list[str]]:
    """For each function the files that it may be in, the likeliest first."""
    if not wanted:
        return {}
    named = _files_with({want.word for want in wanted}, tree)
    defined = {word: {path for path, text in rows if _is_definition(word, text)} for word, rows in named.items()}
    # Searching for users reads the source several times for each name: only where the definition is not plain.
    unsure = [want for want in wanted if len(defined.get(want.word, ())) != 1]
    text, sources = TreeText(tree.root), frozenset(file for _, file in objects.linked())
    using = {name: _users(name, text, sources, limit) for name in sorted({n for w in unsure for n in w.calls})}
    out: dict[Wanted, list[str]] = {}
    for want in wanted:
        having = {path for path, _ in named.get(want.word, ())}
        users = set().union(*(using[name] for name in want.calls if name in using))
        rank = {
            path: (path not in defined.get(want.word, ()), path not in users, path not in having, path)
            for path in having | users
        }
        out[want] = sorted(rank, key=rank.__getitem__)
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


def _users(name: str, text: TreeText, sources: frozenset[str], limit: int) -> frozenset[str]:
    found = uses(text, {name}, sources, limit=limit)
    return found.sources if found.all else frozenset()

"""Who may read a changed file that others include, and which of them to look at.

All objects that may are known by the text of the include lines; where they are
many, only those are looked at that use a name that is changed (see `names`). Whoever
is not looked at for another reason is named in a refusal, never passed over.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from builder.acquire import sums
from builder.acquire.cache import path_of
from builder.acquire.includes import OUTSIDE, Includes
from builder.acquire.kbuild import ListedObjects
from builder.acquire.names import TreeText, changed_names, uses
from builder.acquire.source import INCLUDES, LISTING, SourceTree

log = logging.getLogger("bespoke.acquire")

#: for a header that more objects may read than this, the users of what is changed in it are looked for first
NARROW_ABOVE = 60

#: so many of the changed names a message tells
_TOLD = 3


@dataclass(frozen=True, slots=True)
class Readers:
    """The objects that may read the changed file `path`.

    `near` are all of them, those with the fewest files between first; `asked` those
    whose text is to be compared: the others use nothing that is changed. Where the
    search for users ended early, `ended` says for a person what it had found.
    """

    path: str
    near: tuple[str, ...]
    asked: frozenset[str]
    ended: str = ""


def beyond(objects: ListedObjects) -> frozenset[str]:
    """Directories outside the kernel's own that an object is compiled from (such as tools/lib/bpf)."""
    return frozenset(os.path.dirname(file) for _, file in objects.live() if _is_outside(file))


def _is_outside(file: str) -> bool:
    return file.partition("/")[0] in OUTSIDE


def read_includes(tree: SourceTree, objects: ListedObjects) -> Includes:
    """The include lines of the tree, kept from the first call on."""
    return Includes.of_tree(tree.root, tree.root / INCLUDES, beyond(objects))


def read_source_includes(tree: SourceTree, objects: ListedObjects) -> Includes:
    """The lines among them that include a `.c` file, which is asked of every source: a few hundred of 400,000, and so
    kept beside the others."""
    whole = tree.place / INCLUDES
    saved = whole.with_name(f"sources-{whole.name}")
    known = sums.read_json(saved)
    if known is None or not whole.is_file() or known["made"] != whole.stat().st_mtime_ns:
        by_name = read_includes(tree, objects).ending(".c")
        known = {"made": whole.stat().st_mtime_ns, "by_name": by_name}
        sums.write_json(saved, known)
    return Includes(known["by_name"])


def find_readers(
    shared: Sequence[str], changed: Mapping[str, bytes | None], tree: SourceTree, objects: ListedObjects, limit: int
) -> list[Readers]:
    """For each of the `shared` files who may read it, in that order; kept, for the lines of a tree are many.

    More than `limit` users of a changed name are not told apart from all who may read it.
    """
    if shared and not (tree.place / INCLUDES).is_file():
        read_includes(tree, objects)
    search = cache(lambda: _Search(tree, objects))
    found: list[Readers] = []
    for path in shared:
        place = _remembered(tree, path, changed[path], limit)
        if (known := sums.read_json(place)) is not None:
            near = tuple(known["near"])
            asked = near if known["asked"] is None else known["asked"]
            found.append(Readers(path, near, frozenset(asked), known["ended"]))
            continue
        row = search().readers(path, changed[path], limit)
        less = sorted(row.asked) if len(row.asked) < len(row.near) else None
        sums.write_json(place, {"near": row.near, "asked": less, "ended": row.ended})
        found.append(row)
    return found


class _Search:
    """The include lines of a tree, the files of its objects, and those that all objects read (`-include`)."""

    def __init__(self, tree: SourceTree, objects: ListedObjects) -> None:
        self.tree = tree
        self.text = TreeText(tree.root)
        self.includes = read_includes(tree, objects)
        self.files = dict(objects.live())
        self.everywhere = {
            os.path.normpath(name) for flags in objects.all_flags() for name in re.findall(r"-include (\S+)", flags)
        }

    def readers(self, path: str, content: bytes | None, limit: int) -> Readers:
        """Who may read a file that becomes `content`, None: that is taken away."""
        files, steps = self.files, self.includes.distances([path])
        by_all = bool(self.everywhere & steps.keys())
        near = sorted(
            (name for name, file in files.items() if by_all or file in steps),
            key=lambda name: (steps.get(files[name], len(steps)), name),
        )
        asked, ended = frozenset(near), ""
        if len(near) > NARROW_ABOVE:
            log.info("%d objects may read %s: looking for what is changed in it", len(near), path)
            if (names := self._changed(path, content)) is not None:
                found = uses(self.text, names, set(files.values()), limit=limit)
                users = found.sources | self.includes.reaching(found.spread)
                # The search by names does not look outside.
                some = frozenset(name for name in near if files[name] in users or _is_outside(files[name]))
                if found.all:
                    asked = some
                else:
                    ended = f"at least {len(some)} of them use what is changed in it ({_few(names)})"
        return Readers(path, tuple(near), asked, ended)

    def _changed(self, path: str, content: bytes | None) -> set[str] | None:
        """The names that are changed in a header; None where that cannot be told by names."""
        file = self.tree.root / path
        if content is None or not file.is_file():
            return None
        return changed_names(*(raw.decode("utf-8", "surrogateescape") for raw in (file.read_bytes(), content)))


def _few(names: Collection[str]) -> str:
    first = sorted(names)[:_TOLD]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def _remembered(tree: SourceTree, path: str, after: bytes | None, limit: int) -> Path:
    """Where the readers of one change to a file are kept: by the tree, with what was generated in it, and the texts."""
    file = tree.file(path)
    before = file.read_bytes() if file.is_file() else None
    made = [(tree.place / kept).stat().st_mtime_ns for kept in (INCLUDES, LISTING)]
    texts = (hashlib.sha256(raw).hexdigest() if raw is not None else None for raw in (before, after))
    return path_of(f"narrowed/{tree.identity}", _SCHEME, path, limit, *made, *texts)


_SCHEME = 3
"""To be raised with every change to how readers are told."""

"""Which module of a tree defines which function, and which takes what from elsewhere: by this the module is found
that an object belongs to, and all that call an exported function.

Distributions strip the FILE symbols from modules, so functions are what tells.
To read them all takes a minute for a distribution's 4,000 modules, so the answer
is kept, under a name made of what is in the tree: a module that is added,
exchanged or taken away makes another index. A module that could not be read is
remembered as such, tried again whenever the index is used, and said.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import weakref
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from builder.acquire import sums
from builder.binary import read_object
from builder.binary.kernel.facts import cache_file, restored, stored
from builder.binary.kernel.modules import read_module_bytes
from builder.binary.kernel.places import module_places
from builder.errors import BespokeError

log = logging.getLogger("bespoke.binary")

#: raise it with every change to the tables or to what is in them
_SCHEMA: Final = 5
_TABLES: Final = """
CREATE TABLE functions (name TEXT, module TEXT);
CREATE TABLE imports (name TEXT, module TEXT);
CREATE TABLE unread (path TEXT);
"""


class ModuleIndex:
    """The index of the module tree `root`, in the directory `folder` of the cache; made where there is none.

    A module that cannot be read is named by a warning of the log; its functions are not found.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        store = folder / f"modules-{_content(root, folder)}.sqlite"
        if not sums.is_sealed(store):
            _write(root, store)
        self._connection = _open(store)
        if unread := [path for (path,) in self._connection.execute("SELECT path FROM unread ORDER BY path")]:
            reasons = {path: _unreadable(root / path) for path in unread}
            if not all(reasons.values()):  # what was missing then is there now
                self._connection.close()
                reasons = _write(root, store)
                self._connection = _open(store)
            for path, reason in reasons.items():
                log.warning("a module is not looked at: %s", reason or path)

        weakref.finalize(self, self._connection.close)  # Python 3.13 warns of one that its last user did not close

    def modules_with(self, functions: Sequence[str]) -> list[str]:
        """Names of the modules that define all of these functions, sorted; none for no functions."""
        query = "SELECT module FROM functions WHERE name = ?"
        rows = [{module for (module,) in self._connection.execute(query, (stored(name),))} for name in functions]
        return sorted(set.intersection(*rows)) if rows else []

    def modules_using(self, name: str) -> list[str]:
        """Names of the modules that take a symbol from elsewhere, sorted."""
        rows = self._connection.execute("SELECT DISTINCT module FROM imports WHERE name = ?", (stored(name),))
        return sorted(module for (module,) in rows)


def _open(store: Path) -> sqlite3.Connection:
    # Whichever thread lets go of it last closes it.
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True, check_same_thread=False)
    connection.text_factory = restored
    return connection


def _content(root: Path, folder: Path) -> str:
    """A name for what is in the tree: the place, size and time of each module's file, wherever the tree lies."""
    rows: list[tuple[str, int, int]] = []
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)  # a short path is looked up in less time
    try:
        for place, _ in module_places(root, folder):
            try:
                state = os.stat(place, dir_fd=top)
            except OSError:
                rows.append((place, -1, 0))  # a link to nothing
            else:
                rows.append((place, state.st_size, state.st_mtime_ns))
    finally:
        os.close(top)
    return hashlib.sha256(json.dumps([_SCHEMA, rows]).encode()).hexdigest()[:16]


def _names(path: Path) -> tuple[set[str], set[str]]:
    """The functions that a module defines, and what it takes from elsewhere."""
    obj = read_object(read_module_bytes(path), name=str(path))
    functions = {symbol.name for symbol in obj.symbols if symbol.is_function and symbol.is_defined}
    return functions, {symbol.name for symbol in obj.symbols if not symbol.is_defined and symbol.name}


def _unreadable(path: Path) -> str:
    """Why a module's file cannot be read, "" where it can."""
    try:
        _names(path)
    except BespokeError as error:
        return str(error)
    return ""


def _write(root: Path, store: Path) -> dict[str, str]:
    """Write the index, whole or not at all; path -> reason of each module that cannot be read."""
    unread: dict[str, str] = {}
    with cache_file(store) as made:
        with closing(sqlite3.connect(made)) as db:
            db.executescript(_TABLES)
            for place, module in module_places(root):
                try:
                    functions, imports = _names(root / place)
                except BespokeError as error:
                    unread[place] = str(error)
                else:
                    for table, names in (("functions", functions), ("imports", imports)):
                        rows = ((stored(name), stored(module)) for name in names)
                        db.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
            db.executemany("INSERT INTO unread VALUES (?)", ((stored(path),) for path in unread))
            db.execute("CREATE INDEX by_name ON functions (name)")
            db.execute("CREATE INDEX by_import ON imports (name)")
            db.commit()
        sums.seal(made)
    return unread

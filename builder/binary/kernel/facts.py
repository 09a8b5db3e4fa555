"""What was decoded from an image, kept beside it in the cache: `kernels/SHA256/{vmlinux,facts-*.sqlite}`.

A facts file is written once, under a temporary name, and never changed: two
processes may make it at the same time, either result will do. One that is
damaged, as its checksum tells, is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from builder.acquire import sums
from builder.acquire.cache import remove_tree
from builder.acquire.whole import whole_file
from builder.errors import KernelError, UsageError

SCHEMA: Final = 4
"""Raise it with every change to the tables or to what is decoded; features and their probes count by themselves."""

_PRAGMAS: Final = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA page_size=8192;"
_TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE symbols (position INTEGER PRIMARY KEY, name TEXT, type TEXT);
CREATE TABLE exports (
    position INTEGER PRIMARY KEY, name TEXT, address TEXT, crc INTEGER, gpl INTEGER, namespace TEXT
);
"""
_INDEXES: Final = """
CREATE INDEX symbol_names ON symbols (name);
CREATE INDEX export_names ON exports (name);
"""


def facts_name(asked: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The name of a facts file in which these features are told by these symbols.

    Versions of this program that know different facts do not read, nor undo, each other's.
    """
    return f"facts-{SCHEMA}-{zlib.crc32(json.dumps(asked).encode()):08x}.sqlite"


@contextmanager
def cache_file(path: Path) -> Iterator[Path]:
    """As `whole_file`, for a file of the cache; KernelError where that cannot be written."""
    try:
        if path.is_dir():  # nobody puts one there, and no file takes its place
            remove_tree(path)
        with whole_file(path) as temporary:
            yield temporary
    except (OSError, UsageError) as error:
        why = error.message if isinstance(error, UsageError) else error.strerror or error
        raise KernelError(f"the cache cannot be written: {why}", where=path) from error


def image_hash(path: Path, cache: Path) -> str:
    """The sha256 of an image in hex; remembered for as long as size, time, inode and device stay the same."""
    status = path.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev]
    memo = cache / "kernels" / "hashes-2" / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    known = sums.read_json(memo)
    if known is not None and known["state"] == state:
        return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError, UsageError):
        sums.write_json(memo, {"state": state, "sha256": digest})
    return digest


Rows = Iterable[tuple[object, ...]]


def stored(value: object) -> object:
    """A value for a database: a name may be no UTF-8, which sqlite3 would not take, so its bytes are Latin-1 there."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("latin-1")


def restored(raw: bytes) -> str:
    """The text that was `stored`, from what a database has: its `text_factory`."""
    return raw.decode() if raw.isascii() else raw.decode().encode("latin-1").decode("utf-8", "surrogateescape")


def _stored(rows: Rows) -> Rows:
    return (tuple(map(stored, row)) for row in rows)


def write_facts(path: Path, *, meta: dict[str, object], symbols: Rows, exports: Rows) -> None:
    """Write a whole facts file; `meta` values are texts, numbers or bytes; rows as in the tables."""
    with cache_file(path) as temporary:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.executescript(f"{_PRAGMAS} {_TABLES}")
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO symbols VALUES (?, ?, ?)", _stored(symbols))
            connection.executemany("INSERT INTO exports VALUES (?, ?, ?, ?, ?, ?)", _stored(exports))
            connection.executemany("INSERT INTO meta VALUES (?, ?)", _stored(meta.items()))
            connection.execute("COMMIT")
            connection.executescript(f"{_INDEXES} PRAGMA user_version={SCHEMA};")
        except sqlite3.Error as error:
            raise KernelError(f"the cache cannot be written: {error}", where=path) from error
        finally:
            connection.close()
        sums.seal(temporary)


class Facts:
    """A facts file, open for reading; `make` writes it (again) when it is absent, old or damaged."""

    def __init__(self, path: Path, make: Callable[[], None]) -> None:
        self._path = path
        self._make = make
        self._connection = self._open() or self._made()

    def _made(self) -> sqlite3.Connection:
        self._make()
        connection = self._open()
        if connection is None:
            raise KernelError("what was just written cannot be read", where=self._path)
        return connection

    def _open(self) -> sqlite3.Connection | None:
        """The connection, None unless the file is there and as it was written."""
        try:
            if not sums.is_sealed(self._path):
                return None
            where = f"file:{quote(str(self._path.absolute()))}?mode=ro&immutable=1"
            connection = sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False)
            connection.text_factory = restored
            # Python 3.13 warns of a connection that its last user did not close.
            weakref.finalize(self, connection.close)
            return connection
        except (OSError, sqlite3.Error):
            return None

    def rebuild(self) -> None:
        """Make the file again, and read that."""
        self._connection.close()
        remove_tree(self._path)
        self._connection = self._made()

    def rows(self, query: str, *values: object) -> list[Any]:
        """All rows of a query; a file that turns out to be damaged is made again."""
        values = tuple(map(stored, values))
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.DatabaseError:
            self.rebuild()
            return self._connection.execute(query, values).fetchall()

    def meta(self, key: str) -> Any:
        """One value of the meta table, None where there is none of this key."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return found[0][0] if found else None

    def words(self, key: str, code: str) -> array[int]:
        """A meta value that is an array; `code` as in the array module."""
        return array(code, self.meta(key) or b"")

    def close(self) -> None:
        self._connection.close()

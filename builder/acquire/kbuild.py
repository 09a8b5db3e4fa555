"""How kbuild compiles each object of a configured tree, and what each object becomes a part of.

One dry run of make over a prepared tree (`make -n ./`, 20 to 50 s of CPU for a
distribution's 13,000 objects) names every command without running one. What
is needed of them is kept in a small database beside the tree; a look-up is then
immediate, and any object can be compiled by the very command that kbuild uses.
One folder alone takes less than a second (`record_folders`).

Forms of the commands: `scripts/Makefile.build` (cmd_cc_o_c, cmd_ar_builtin,
cmd_ld_multi_m), Linux 6.1 and 6.12.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

from builder.acquire.tools import ended
from builder.errors import InputError, ToolError

log = logging.getLogger("bespoke.acquire")

#: owner of objects that are linked into the kernel itself
VMLINUX = "vmlinux"

#: what no longer runs once the kernel does: the EFI stub, a part of the boot loader (drivers/firmware/efi/libstub)
_ENDED = "drivers/firmware/efi/libstub/"

_COMPILE = re.compile(r" -c -o (\S+\.o) (\S+\.[cS])\b")
_OBJTOOL = re.compile(r"^\s*; (\S*tools/objtool/objtool) ((?:--\S+\s+)*)")
_LINK = re.compile(r"; \S*ld\S* .*? -r -o (\S+\.o) .*?; (\S*tools/objtool/objtool) ((?:--\S+\s+)*)\1")
_LINKED = re.compile(r"; \S*ld\S* [^;]*? -r -o (\S+\.o) ")

#: what make says on standard error of what it cannot make (GNU make 4.3, remake.c), whatever is said around it
_NO_RULE = re.compile(r"\*\*\* No rule to make target '([^']+)', needed by '([^']+)'")

#: what there is below it is made by the compiler of Rust, which need not be there: no C is compiled of it
_RUST = "rust/"

#: folders whose module is linked of several objects wherever it is one: whether and how objtool is run then is one for
#: all modules (scripts/Makefile.lib, delay-objtool)
_LINKS = ("net/8021q", "fs/isofs", "fs/fat")


@dataclass(frozen=True, slots=True)
class Command:
    """How one object is made.

    `object` and `source` are relative to the tree and as kbuild names them (`..`
    may occur). `words` is the compiler's command up to (without) `-c -o OBJECT
    SOURCE`, without the option that names the dependency file.
    `objtool` are the options of objtool, empty when kbuild does not run it on this
    object. `owners` are `vmlinux` or names of modules; empty for what is part of
    neither (boot loader code, vDSO, tests of the build).
    """

    object: str
    source: str
    words: tuple[str, ...]
    objtool: tuple[str, ...]
    owners: tuple[str, ...]

    @property
    def assembler(self) -> bool:
        """Whether the source is assembler: such objects are known here and never recompiled."""
        return self.source.endswith(".S")

    @property
    def unreachable(self) -> bool:
        """Whether this runs beside the kernel and cannot be patched: vDSO, real-mode code, purgatory."""
        return not self.owners and not self.object.startswith(_ENDED)


@dataclass(frozen=True, slots=True)
class _Row:
    object: str
    source: str
    flags: str
    defines: str
    objtool: str
    modules: str


def record(root: Path, make: Sequence[str], database: Path) -> int:
    """Dry-run `make` (program, options and variables) in `root` and write `database`; the number of objects.

    Raises `ToolError` when make fails or names no object, or none that is linked.
    """
    log.info("listing the objects of the configuration")
    said = _read(_dry_run(root, make, ["./"], database.parent))
    if not said.rows:
        raise ToolError("make names no object to compile", where=root)
    if not any(row.modules or name in said.built_in for name, row in said.rows.items()):
        # Such a list is one that ended early; with it every patch would reach nothing.
        raise ToolError(f"make names {len(said.rows)} objects to compile, none of them part of the kernel", where=root)
    _write(database, said)
    return len(said.rows)


def record_folders(root: Path, make: Sequence[str], databases: Mapping[str, Path]) -> None:
    """The same of the objects that the makefiles of some folders name, and those below: a database for each folder.

    There are none in it where kbuild does not come there by itself (a folder whose makefile another includes), or
    where what make says does not tell how objtool is run.
    """
    log.info("listing the objects of %s", ", ".join(databases))
    goals = [f"{name}/" for name in dict.fromkeys((*databases, *_LINKS))]
    said = _read(_dry_run(root, make, goals, next(iter(databases.values())).parent))
    for folder, database in databases.items():
        below = {name: row for name, row in said.rows.items() if name.startswith(f"{folder}/")}
        _write(database, replace(said, rows=below if said.tells_links else {}))


@dataclass(frozen=True, slots=True)
class _Said:
    """What make says: `rows` by the object, the objects that are `built_in`, those that are `linked` of others, what it
    has no rule for, and the options of objtool when a module is linked, empty where none are said."""

    rows: dict[str, _Row]
    built_in: set[str]
    linked: set[str]
    lacking: set[str]
    link_options: str

    @property
    def tells_links(self) -> bool:
        """Whether a module of several objects is linked here: what is said of objtool then holds for all."""
        modules = {row.modules for row in self.rows.values()}
        return any(PurePosixPath(name).stem.replace("-", "_") in modules for name in self.linked)


def _read(lines: Iterable[str]) -> _Said:
    said = _Said({}, set(), set(), set(), "")
    for line in lines:
        if (row := _compile_row(line)) is not None:
            said.rows.setdefault(row.object, row)
        elif ".a" in line and " ar cD" in line:
            said.built_in.update(_archive_members(line))
        elif (joined := _LINKED.search(line)) is not None:
            said.linked.add(joined[1])
            if not said.link_options and (linked := _LINK.search(line)) is not None:
                said = replace(said, link_options=linked[3].strip())
        elif (gone := _NO_RULE.search(line)) is not None and not gone[2].startswith(_RUST):
            said.lacking.add(gone[1])
    return said


#: An option that changes every command: what was made in the tree before (with generated files) is not up to
#: date then, and is named as well. It reaches all that is compiled (scripts/Makefile.lib, _c_flags, _a_flags).
_MARK = "-DBESPOKE_LISTING"


#: What make of objects from Rust runs even in a dry run (scripts/Makefile.build, `+$(call if_changed_rule,...)`, v7.2):
#: it would fail for want of what is made before, and no list would be said of the folders around such an object.
_NO_RUST = "rule_rustc_o_rs=@:"

#: What stands for make where a makefile calls it: what it says goes to a file of its own, as several of them at once
#: tear each other's lines apart. Behind what is there, for the number of a process that has ended is used again.
_APART = '#!/bin/sh\nexec make "$@" >> {folder}/$$\n'


def _dry_run(root: Path, make: Sequence[str], goals: Iterable[str], work: Path) -> Iterator[str]:
    """The lines that make says; they take 100 MB for all objects, below the directory `work`."""
    with tempfile.TemporaryDirectory(prefix="said.", dir=work) as name:
        folder, script = Path(name, "said"), Path(name, "make")
        folder.mkdir()
        script.write_text(_APART.format(folder=shlex.quote(str(folder))))
        script.chmod(0o755)
        words = [*make, f"MAKE={shlex.quote(str(script))}", _NO_RUST, f"KCPPFLAGS={_MARK}", "-s", "-n", "-k", *goals]
        left = ended(words, cwd=root)
        # With -k make fails for goals that cannot be made in a dry run; only a list cut short is no list.
        if left.status < 0:
            raise ToolError(f"make was ended by signal {-left.status} while it listed the objects", where=root)
        if b"write error" in left.err:
            raise ToolError("what make says of the objects cannot be written (is the disk full?)", where=work)
        yield from (left.out + b"\n" + left.err).decode(errors="replace").split("\n")
        for path in sorted(folder.iterdir()):
            with path.open(errors="replace") as said:
                yield from said


def _compile_row(line: str) -> _Row | None:
    start = line.find(" -Wp,-MMD,")
    if start < 0:
        return None
    begin = line.rfind(";", 0, start) + 1
    match = _COMPILE.search(line, start)
    if match is None:
        return None
    words = [word for word in line[begin : match.start()].split() if word != _MARK]
    defines = [w for w in words if w.startswith(("-DKBUILD_", "-D__KBUILD_"))]
    if not defines and match[2].endswith(".c"):
        return None  # of a program that runs while the kernel is built (scripts/Makefile.host, cmd_host-cobjs)
    flags = [w for w in words if not w.startswith(("-DKBUILD_", "-D__KBUILD_", "-Wp,-MMD,"))]
    modules = ""
    if "-DMODULE" in flags:
        named = re.search(r"-DKBUILD_MODNAME='?\"([^\"]+)\"", " ".join(defines))
        # Assembler is compiled without the names; that it belongs to some module is all that matters of it.
        modules = named[1] if named is not None else "?"
    objtool = _OBJTOOL.match(line[match.end() :])
    return _Row(
        object=match[1],
        source=match[2],
        flags=" ".join(flags),
        defines=" ".join(defines),
        objtool=" ".join(objtool[2].split()) if objtool else "",
        modules=modules,
    )


def _archive_members(line: str) -> set[str]:
    """Objects that an `ar` recipe puts into a built-in.a or lib.a: `printf "DIR/%s " A B | xargs ar ...`
    (since 6.0) or all paths in full."""
    members: set[str] = set()
    listed = re.search(r"printf \"([^\"]*)%s \" ([^|]*)\|", line)
    if listed is not None:
        members |= {listed[1] + name for name in listed[2].split() if name.endswith(".o")}
    direct = re.search(r"\bar cD\w+ (?:[a-z]+ )?\S+\.a ([^;'|]*)", line)
    if direct is not None:
        members |= {name for name in direct[1].split() if name.endswith(".o")}
    return members


def _write(database: Path, said: _Said) -> None:
    database.unlink(missing_ok=True)
    connection = sqlite3.connect(database)
    with connection:
        connection.executescript(
            "CREATE TABLE flags (id INTEGER PRIMARY KEY, text TEXT UNIQUE);"
            "CREATE TABLE objects (object TEXT PRIMARY KEY, source TEXT, file TEXT, flags INTEGER,"
            " defines TEXT, objtool TEXT, owners TEXT);"
            "CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT);"
            "CREATE INDEX by_source ON objects (file);"
        )
        ids: dict[str, int] = {}
        for row in said.rows.values():
            key = ids.setdefault(row.flags, len(ids) + 1)
            owners = row.modules or (VMLINUX if row.object in said.built_in else "")
            connection.execute(
                "INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
                (row.object, row.source, os.path.normpath(row.source), key, row.defines, row.objtool, owners),
            )
        connection.executemany("INSERT INTO flags VALUES (?, ?)", [(n, text) for text, n in ids.items()])
        facts = {"link-objtool": said.link_options, "lacking": "\n".join(sorted(said.lacking))}
        connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
    connection.close()


_PLAIN = re.compile(r"[^\s\"'\\]+(?: [^\s\"'\\]+)*")


@cache
def _words(text: str) -> tuple[str, ...]:
    """Text as a shell splits it: hundreds of objects have the same flags, mostly words without a quote."""
    return tuple(text.split(" ") if _PLAIN.fullmatch(text) else shlex.split(text))


def _listed(name: str) -> str:
    """A name as `record` reads it from what make says."""
    return name.encode("utf-8", "surrogateescape").decode(errors="replace")


class ListedObjects:
    """The recorded objects of one tree: a read-only view of the database that `record` wrote."""

    def __init__(self, database: Path) -> None:
        if not database.is_file():
            raise InputError("no list of objects", where=database)
        self._connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        self._link_objtool = self._fact("link-objtool")

    def __enter__(self) -> ListedObjects:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _fact(self, key: str) -> str:
        row = self._connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""

    @property
    def lacking(self) -> list[str]:
        """What make has no rule for: objects that it would make of that, and those beside them, are not listed as they
        are."""
        return self._fact("lacking").splitlines()

    _SELECT = (
        "SELECT o.object, o.source, f.text, o.defines, o.objtool, o.owners"
        " FROM objects o JOIN flags f ON f.id = o.flags"
    )

    def of_source(self, source: str) -> list[Command]:
        """The commands that compile `source` (path in the tree); none when it is part of others."""
        rows = self._connection.execute(f"{self._SELECT} WHERE o.file = ? ORDER BY o.object", (_listed(source),))
        return [self._command(row) for row in rows]

    def all(self) -> list[Command]:
        """Every command, in the order of the objects' names."""
        return [self._command(row) for row in self._connection.execute(f"{self._SELECT} ORDER BY o.object")]

    def linked(self) -> list[tuple[str, str]]:
        """(object, file) of everything that is part of vmlinux or of a module; files without `..`."""
        rows = self._connection.execute("SELECT object, file FROM objects WHERE owners != '' ORDER BY object")
        return [(str(a), str(b)) for a, b in rows]

    def live(self) -> list[tuple[str, str]]:
        """(object, file) of everything that may run: what `linked` says, and what is `Command.unreachable`."""
        return self._live

    @cached_property
    def _live(self) -> list[tuple[str, str]]:
        rows = self._connection.execute(
            "SELECT object, file FROM objects WHERE owners != '' OR substr(object, 1, ?) != ? ORDER BY object",
            (len(_ENDED), _ENDED),
        )
        return list(rows)

    def named(self, name: str) -> list[Command]:
        """The command of one object, none where there is none of that name."""
        rows = self._connection.execute(f"{self._SELECT} WHERE o.object = ?", (_listed(name),))
        return [self._command(row) for row in rows]

    def in_folder(self, folder: str) -> list[Command]:
        """The commands of the objects that lie in a directory itself, in the order of their names."""
        rows = self._connection.execute(
            f"{self._SELECT} WHERE o.object GLOB ? AND o.object NOT GLOB ? ORDER BY o.object",
            (f"{_listed(folder)}/*", f"{_listed(folder)}/*/*"),
        )
        return [self._command(row) for row in rows]

    def of_object(self, name: str) -> Command:
        """The command of one object; `InputError` for a name that is not in the configuration."""
        row = self._connection.execute(f"{self._SELECT} WHERE o.object = ?", (_listed(name),)).fetchone()
        if row is None:
            raise InputError("no object of this kernel's configuration", where=name)
        return self._command(row)

    def all_flags(self) -> list[str]:
        """Every distinct set of flags, for options that hold for many objects (such as `-include`)."""
        return [str(row[0]) for row in self._connection.execute("SELECT text FROM flags ORDER BY id")]

    def _command(self, row: Sequence[str]) -> Command:
        name, source, flags, defines, objtool, owners = row
        # With IBT or LTO kbuild runs objtool when it links (delay-objtool): on vmlinux.o, on a module. The
        # same options on one object give that object's tables; --module because what it lacks is elsewhere.
        options = objtool or (self._link_objtool if owners else "")
        words = [*_words(flags), *_words(defines)]
        if not any(word.startswith("-fmacro-prefix-map=") for word in words):
            # Newer kernels strip the source tree from __FILE__ only where they are built elsewhere, as the
            # distribution's are (building_out_of_srctree, Makefile, v7.2).
            words.append("-fmacro-prefix-map=./=")
        return Command(
            object=name,
            source=source,
            words=tuple(words),
            objtool=tuple(options.split()),
            owners=tuple(owners.split(":")) if owners else (),
        )

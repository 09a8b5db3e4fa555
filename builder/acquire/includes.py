"""Which objects read a header, and which of them a change to it can reach at all.

First by the text of the `#include` lines, without running anything: that finds
every object that may read the header, and some that the configuration keeps
from it. Then by preprocessing, which is certain.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from builder.acquire import sums
from builder.acquire.tools import ended
from builder.errors import ToolError

#: An include by name, or a macro that stands for one (such as drbd's GENL_MAGIC_INCLUDE_FILE)
_INCLUDE = re.compile(rb"^[ \t]*#[ \t]*(include|define[ \t]+\w+)[ \t]*([<\"][^>\"\n]+\.[a-zA-Z]+)[>\"]", re.MULTILINE)

#: lines that it may match, as grep(1) is told
_MAY_INCLUDE = r'^[[:blank:]]*#[[:blank:]]*(include|define[[:blank:]]+[[:alnum:]_]+)[[:blank:]]*[<"]'

#: what files that are part of an object, or of one that is, end in
_ENDS = (".c", ".h", ".S", ".inc", ".def")

#: directories whose files are part of no kernel object, but for single ones that the listing names
OUTSIDE = frozenset({"tools", "Documentation", "samples", "LICENSES", ".git", ".bespoke", "debian"})


class Includes:
    """The `#include` lines of a tree.

    `by_name` maps a name as written, with the `<` or `"` before it, to the files
    (paths in the tree) that write it; a quoted name that stands beside its
    includer is resolved already and kept as `=PATH`.
    """

    def __init__(self, by_name: dict[str, list[str]]) -> None:
        self._by_name = by_name
        self._by_tail: defaultdict[str, list[tuple[str, list[str]]]] = defaultdict(list)
        for name, files in by_name.items():
            self._by_tail[name.lstrip('<"=').rpartition("/")[2]].append((name, files))

    @classmethod
    def of_tree(cls, root: Path, saved: Path, beyond: Collection[str] = ()) -> Includes:
        """Read the tree's files (some seconds for 50,000), or `saved` from an earlier run.

        `beyond` are directories that are read too, though they lie where no source of the kernel does.
        """
        by_name = sums.read_json(saved)
        if by_name is None:
            by_name = defaultdict(list)
            paths = [*_sources(root), *(path for folder in sorted(beyond) for path in _read(root, folder))]
            known = set(paths)
            for path, kind, name in sorted(_lines(root, paths)):
                beside = os.path.normpath(f"{os.path.dirname(path)}/{name[1:]}")
                resolved = kind == "include" and name[0] == '"' and beside in known
                by_name[f"={beside}" if resolved else name].append(path)
            sums.write_json(saved, by_name)
        return cls(by_name)

    def ending(self, end: str) -> dict[str, list[str]]:
        """The lines that include a file whose name ends so, in the form that this is made of."""
        return {name: files for name, files in self._by_name.items() if name.endswith(end)}

    def including(self, path: str) -> set[str]:
        """Files that may include `path` directly: it stands beside them, or may be found on a search path."""
        found: set[str] = set()
        for name, files in self._by_tail.get(path.rpartition("/")[2], ()):
            if name.startswith("="):
                found.update(files if name[1:] == path else ())
                continue
            plain = str(PurePosixPath(*(part for part in name[1:].split("/") if part not in ("..", "."))))
            if path == plain or path.endswith(f"/{plain}"):
                found.update(files)
        return found

    def reaching(self, paths: Iterable[str]) -> set[str]:
        """`paths` and all files that may include one of them, directly or through others."""
        return set(self.distances(paths))

    def distances(self, paths: Iterable[str]) -> dict[str, int]:
        """The same, the nearest first, each with the number of steps from one of `paths`."""
        reached = dict.fromkeys(paths, 0)
        waiting = deque(reached)
        while waiting:
            near = waiting.popleft()
            for path in sorted(self.including(near)):
                if path not in reached:
                    reached[path] = reached[near] + 1
                    waiting.append(path)
        return reached


def _lines(root: Path, paths: Iterable[str]) -> set[tuple[str, str, str]]:
    """(path, `include` or `define MACRO`, name with the `<` or `"` before it) of what `_INCLUDE` matches in `paths`.

    grep(1) finds the lines, in a tenth of the time. Raises ToolError where a file cannot be read.
    """
    with tempfile.NamedTemporaryFile(suffix=".paths") as listed:
        listed.write(b"\0".join(map(os.fsencode, paths)))
        listed.flush()
        argv = ["xargs", "-r", "-0", "-a", listed.name, "grep", "-aZHE", "-e", _MAY_INCLUDE, "--"]
        found = ended(argv, cwd=root)
    if found.status not in (0, 123) or found.err:  # 123: one of its greps found nothing
        said = found.err.decode(errors="replace").strip().partition("\n")[0]
        raise ToolError(f"grep failed (exit status {found.status}): {said}", where=root)
    rows = (line.partition(b"\0") for line in found.out.split(b"\n"))
    matches = ((os.fsdecode(path), _INCLUDE.match(text)) for path, _, text in rows)
    return {(path, match[1].decode(), match[2].decode("ascii", "replace")) for path, match in matches if match}


def including_sources(root: Path) -> set[str]:
    """The names, without their folders, of all `.c` files that some file below `root` may include.

    What is read is all that `Includes.of_tree` may read, and more. Raises ToolError where a file cannot be read.
    """
    argv = ["grep", "-raFh", "-e", '.c"', "-e", ".c>", *(f"--include=*{end}" for end in _ENDS)]
    found = ended([*argv, "--exclude-dir=Documentation", "--exclude-dir=.bespoke", "--exclude-dir=.git", "."], cwd=root)
    if found.status not in (0, 1):
        raise ToolError(f"grep failed (exit status {found.status}): {os.fsdecode(found.err).strip()}", where=root)
    names = (match[2].decode("ascii", "replace") for match in _INCLUDE.finditer(found.out))
    return {name.lstrip('<"').rpartition("/")[2] for name in names if name.endswith(".c")}


def _sources(root: Path) -> Iterator[str]:
    """Paths of C and assembler files and of what they include; other architectures left out."""
    machines = {path.parent.parent.name for path in root.glob("arch/*/include/generated")}
    for folder, folders, files in os.walk(root):
        here = os.path.relpath(folder, root)
        if here == ".":
            folders[:] = [name for name in folders if name not in OUTSIDE]
        elif here == "arch" and machines:
            folders[:] = [name for name in folders if name in machines]
        yield from _text_files(folder, here, files)


def _read(root: Path, folder: str) -> Iterator[str]:
    """The same of one folder, without those below it."""
    yield from _text_files(str(root / folder), folder, sorted(os.listdir(root / folder)))


def _text_files(folder: str, here: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name.endswith(_ENDS) and not os.path.islink(f"{folder}/{name}"):
            yield os.path.normpath(f"{here}/{name}")


_FUNCTION = re.compile(
    rb"static\b(?=[^;{=]*\b(?:inline|__inline__|__inline)\b)[^;{=]*?(\w+)\s*\([^;{]*\)\s*\{", re.DOTALL
)
_ATTRIBUTE = re.compile(rb"__attribute__\s*\(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\)")


def code_differs(old: bytes, new: bytes) -> bool:
    """Whether two preprocessed texts (line markers stripped) can give different code.

    Static inline functions that differ, or that only one text has, give none
    when nothing else names them. Whatever is not plainly of that kind counts as
    a difference.
    """
    if old == new:
        return False
    # Each piece holds at most one function, at its end: it was cut at a line that is a lone `}`.
    left, right = old.split(b"\n}\n"), new.split(b"\n}\n")
    common = set(left) & set(right)
    heads_old, inlines_old = _inlines([piece for piece in left if piece not in common])
    heads_new, inlines_new = _inlines([piece for piece in right if piece not in common])
    if heads_old != heads_new:
        return True
    names = {name for name, _ in inlines_old.items() ^ inlines_new.items()}
    return any(
        _mentions(name, text) != _mentions(name, inlines.get(name, b""))
        for text, inlines in ((old, inlines_old), (new, inlines_new))
        for name in names
    )


def _inlines(pieces: Iterable[bytes]) -> tuple[list[bytes], dict[bytes, bytes]]:
    """(words of all that is no static inline function, {name: text} of those functions)."""
    rest: list[bytes] = []
    functions: dict[bytes, bytes] = {}
    for piece in pieces:
        start = piece.rfind(b"\nstatic ") + 1
        match = _FUNCTION.match(_ATTRIBUTE.sub(b"", piece[start:]))
        if match is None or match[1] in functions:
            rest += piece.split()
        else:
            rest += piece[:start].split()
            functions[match[1]] = piece[start:]
    return rest, functions


def _mentions(name: bytes, text: bytes) -> int:
    return len(re.findall(rb"\b%b\b" % re.escape(name), text))

"""Which files of a prepared tree may define a function of a name: an index of all lines that look like a head.

Looking through the whole source takes longer than all else that a mark needs; it is done once for a tree, and kept.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builder.acquire.cache import published
from builder.acquire.source import SourceTree
from builder.acquire.tools import run_grep

_INDEX: Final = "heads.txt"
_NAMES: Final = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\s*\(")
_ARGUMENT: Final = re.compile(r"^(?:static\s+)?[A-Z][A-Z0-9_]*\(\s*([A-Za-z_]\w*)")


def files_with_head(tree: SourceTree, name: str) -> list[str]:
    """The files with a line that may be the head of the function `name`, or of the macro that makes it, in order."""
    place = published("heads", tree.identity, lambda work: _write(tree.root, work / _INDEX)) / _INDEX
    wanted = f"{name}\t".encode("utf-8", "surrogateescape")
    with place.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at = _first(text, wanted)
        out = []
        while text[at : at + len(wanted)] == wanted:
            end = text.find(b"\n", at)
            out.append(text[at + len(wanted) : end].decode("utf-8", "surrogateescape"))
            at = end + 1
    return out


def _first(text: mmap.mmap, wanted: bytes) -> int:
    """Where the first line is that is not less than `wanted`, in a file of sorted lines."""
    low, high = 0, len(text)
    while low < high:
        line = text.rfind(b"\n", 0, (low + high) // 2) + 1  # the line in the middle
        end = text.find(b"\n", line) + 1
        if text[line:end] < wanted:
            low = end
        else:
            high = line
    return low


def _write(root: Path, path: Path) -> None:
    rows = sorted({f"{name}\t{file}\n" for file, name in _heads(root)})
    path.write_text("".join(rows), encoding="utf-8", errors="surrogateescape")


def _heads(root: Path) -> Iterator[tuple[str, str]]:
    """(file, name) of each name that a line at the margin defines, perhaps."""
    for file, _, line in run_grep(root, [r"^[A-Za-z_][^;]*\([^;]*$"], whole_words=False, patterns=True):
        if not file.endswith((".c", ".h")):
            continue
        if made := _ARGUMENT.match(line):
            yield file, made[1]
        for found in _NAMES.finditer(line):
            yield file, found[1]

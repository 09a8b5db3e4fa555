"""What a patch adds to a kbuild makefile: objects of a list that is there, and nothing else.

`obj-y += x.o` and `NAME-y += x.o` (Documentation/kbuild/makefiles.rst) make one more file part of the kernel or of a
module, which a livepatch can carry. Every other change of a makefile is one of how things are built.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_ASSIGNED = re.compile(r"([\w.-]+-(?:\$\((CONFIG_\w+)\)|y|m|objs))\s*(?:\+=|:=|=)\s*(.*)")


class ListedName(NamedTuple):
    """`object` in the list `name` (`obj`, or a composite object's name) where `option` is set; "" is always."""

    name: str
    option: str
    object: str


def added_names(old: str, new: str) -> list[ListedName] | None:
    """The objects that a makefile lists now and did not; None where anything else in it is another."""
    before, after = (_contents(text) for text in (old, new))
    if before[1] != after[1] or before[0] - after[0]:
        return None
    return list((after[0] - before[0]).elements())


def listed_with(text: str, name: str) -> list[str]:
    """The objects of one list, under whatever options."""
    return [row.object for row in _contents(text)[0] if row.name == name]


def is_set(option: str, config: Mapping[str, str]) -> str:
    """`y`, `m` or `` (not at all): what a list's option says."""
    return "y" if option in ("", "y", "objs") else "m" if option == "m" else config.get(option, "")


def _contents(text: str) -> tuple[Counter[ListedName], list[str]]:
    """The objects that are listed, and all else, line by line."""
    names: Counter[ListedName] = Counter()
    rest: list[str] = []
    for line in _lines(text):
        match = _ASSIGNED.fullmatch(line)
        words = match[3].split() if match is not None else []
        if match is None or not all(re.fullmatch(r"[\w./-]+\.o", word) for word in words):
            rest.append(line)
            continue
        option = match[2] or match[1].rpartition("-")[2]
        name = match[1][: -len(f"-$({option})" if match[2] else f"-{option}")]
        names.update(ListedName(name, option, word) for word in words)
    return names, rest


def _lines(text: str) -> Iterator[str]:
    """Without comments and empty lines, continued lines as one."""
    for line in re.sub(r"\\\n", " ", text).split("\n"):
        plain = " ".join(line.partition("#")[0].split())
        if plain:
            yield plain

"""The authors' kit: headers of our own that patches of the field include, in the patched tree and nowhere else.

A kernel that has a header of the name keeps its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from builder.templates import folder

_HEADERS: Final = ("bespoke.h", "kpatch-macros.h", "kpatch-syscall.h", "linux/livepatch_helpers.h")
"""By what an `#include` calls them; below the tree's `include/` each compiler of a kernel finds them."""
_INCLUDED: Final = re.compile(
    rb"^[ \t]*#[ \t]*include[ \t]*[<\"](?:" + b"|".join(re.escape(name.encode()) for name in _HEADERS) + rb")[>\"]",
    re.MULTILINE,
)


def kit_for(changed: Mapping[str, bytes | None], file: Callable[[str], Path]) -> dict[str, bytes]:
    """The files {path: content} that a tree lacks, where one of `changed` includes any; `file` gives the tree's."""
    if not any(_includes_any(content) for content in changed.values() if content is not None):
        return {}
    paths = {f"include/{name}": name for name in _HEADERS}
    return {
        path: (folder() / "kit" / name).read_bytes()
        for path, name in paths.items()
        if path not in changed and not file(path).exists()
    }


def _includes_any(content: bytes) -> bool:
    """Whether a file includes one of the headers; hardly any has the name of one, and to look at each line is slow."""
    return any(name.encode() in content for name in _HEADERS) and _INCLUDED.search(content) is not None

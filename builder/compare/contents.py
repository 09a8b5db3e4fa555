"""What tells two objects, and the program that compares them, from any others: what is found of them is kept by it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final
from weakref import WeakKeyDictionary

from builder.acquire import own_text
from builder.acquire.cache import path_of
from builder.arch import decoder
from builder.binary import ObjectFile
from builder.compare.comparison import Comparison
from builder.compare.view import View

_MAKERS: Final = ("*.py", "arch/**/*.py", "binary/**/*.py", "compare/**/*.py")
"""Where the text of what reads and compares objects stands."""
_BESIDE: Final = ("acquire/bounds.py", "acquire/shifts.py")
"""What the comparison takes from elsewhere: how much is read, and what a source patch moves."""


def place_of(kind: str, comparison: Comparison, what: object) -> Path:
    """Where in the cache something is kept that this program found in two objects; `what` was asked of them."""
    return path_of(f"maps/{kind}", program(), content_of(comparison.old), content_of(comparison.new), what)


_told: Final[WeakKeyDictionary[View, str]] = WeakKeyDictionary()


def tell(view: View, content: str) -> None:
    """Say what `content_of` a view is, where it is known without a look at the object: by the bytes of its file."""
    _told[view] = content


def content_of(view: View) -> str:
    """What tells the object of a view from any other: all its sections, the tables of symbols and relocations too."""
    if (content := _told.get(view)) is None:
        content = _told[view] = content_of_object(view.obj)
    return content


def content_of_object(obj: ObjectFile) -> str:
    """What tells an object from any other by its sections."""
    import hashlib  # here, for what only compares keeps nothing

    digest = hashlib.sha256(repr((obj.machine, obj.type, obj.flags)).encode())
    for section in obj.sections:
        digest.update(repr((section.name, section.type, section.flags, section.size, *section[6:])).encode())
        digest.update(section.data)
    return digest.hexdigest()


@cache
def program(*more: str) -> str:
    """What tells this program from one that compares otherwise, or does otherwise what stands in `more` folders."""
    return f"{decoder()} {own_text.digest(*_where(more))}"


def texts(*more: str) -> list[Path]:
    """The files of `program`, in order."""
    return own_text.texts(*_where(more))


def _where(more: Iterable[str]) -> tuple[str, ...]:
    return (*_MAKERS, *_BESIDE, *(f"{folder}/**/*.py" for folder in more))

"""What tells two objects, and the program that compares them, from any others: what is found of them is kept by it."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from builder.acquire.cache import cache_path
from builder.arch import decoder
from builder.compare.comparison import Comparison
from builder.compare.view import View

_MAKERS: Final = ("arch", "binary", "compare")
"""Where the text of what reads and compares objects stands."""


def place_of(kind: str, comparison: Comparison, what: object) -> Path:
    """Where in the cache something is kept that this program found in two objects; `what` was asked of them."""
    key = repr((program(), content_of(comparison.old), content_of(comparison.new), what))
    return cache_path(f"maps/{kind}", hashlib.sha256(key.encode()).hexdigest()[:32])


@lru_cache(maxsize=16)
def content_of(view: View) -> str:
    """What tells the object of a view from any other: all its sections, the tables of symbols and relocations too."""
    digest = hashlib.sha256(repr((view.obj.machine, view.obj.type, view.obj.flags)).encode())
    for section in view.obj.sections:
        digest.update(repr((section.name, section.type, section.flags, section.size, *section[6:])).encode())
        digest.update(section.data)
    return digest.hexdigest()


@cache
def program(*more: str) -> str:
    """What tells this program from one that compares otherwise, or does otherwise what stands in `more` folders."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(decoder().encode())
    for file in sorted(file for folder in (*_MAKERS, *more) for file in (root / folder).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()

"""The books of a pair, balanced: what of either object no verdict accounts for.

Every thing of the two objects ends as the same, line only, travelling, bound, refused, or ignored by a rule of
`RULES`. The comparison judges functions and data by what they mean, and the selection says what travels. Here
everything else is looked at, a stage for each kind of it. What differs there and is ignored by no rule is the refusal
`unaccounted`: it may be harmless, but nobody has said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from builder.compose.books.attributes import sections
from builder.compose.books.entries import entries
from builder.compose.books.gaps import gaps
from builder.compose.books.rules import RULES, Ignored, Note, Pair
from builder.compose.books.symbols import symbols
from builder.compose.books.things import things
from builder.compose.books.unnamed import unnamed
from builder.compose.selection import Selection
from builder.errors import Refusal

_STAGES: Final[tuple[Callable[[Pair], Iterator[Note]], ...]] = (sections, symbols, things, gaps, entries, unnamed)


@dataclass(frozen=True)
class Books:
    """`ignored`: rule -> what it took, in words; `refusals`: what is left over."""

    ignored: Mapping[str, tuple[str, ...]]
    refusals: tuple[Refusal, ...]


def balance(selection: Selection) -> Books:
    """Balance the books of a pair; what nothing accounts for is a refusal."""
    pair = Pair(selection)
    notes = list(dict.fromkeys(note for stage in _STAGES for note in stage(pair)))
    taken: dict[str, list[str]] = {rule: [] for rule in RULES}
    for note in notes:
        if isinstance(note, Ignored):
            taken[note.rule].append(note.what)  # by a rule that has no row nothing may be ignored: a KeyError
    return Books(
        {rule: tuple(what) for rule, what in taken.items() if what},
        tuple(note for note in notes if isinstance(note, Refusal)),
    )


__all__ = ["RULES", "Books", "Ignored", "balance"]

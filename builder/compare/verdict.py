"""What a comparison says of one function or datum, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """Order of weight: a `LINES` difference is a source line number that moved, nothing else."""

    SAME = "same"
    LINES = "line-only"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """The verdict on one atom; `reason` is for a person and empty when there is no difference.

    `excused` are rules (of builder/compose/books.py) by which something that differs was left out of the verdict.
    """

    verdict: Verdict
    reason: str = ""
    excused: tuple[str, ...] = ()

    @property
    def is_changed(self) -> bool:
        return self.verdict is Verdict.CHANGED


SAME = Difference(Verdict.SAME)
LINES = Difference(Verdict.LINES, "only source line numbers differ")

"""What an answer may say differently from one run to the next: the one place where it is made the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Rule:
    """Text like `pattern` is kept as `put` (no backslashes); `why` says how it comes to vary."""

    name: str
    why: str
    pattern: re.Pattern[str]
    put: str


def _path(path: Path) -> re.Pattern[str]:
    """The path itself and the start of a longer one, but not another that merely begins with the same letters."""
    return re.compile(rf"{re.escape(str(path))}(?![\w.+~-])")


def rules(work: Path, cache: Path, code: Path) -> tuple[Rule, ...]:
    """All rules, in the order in which they are applied."""
    return (
        Rule("work", "each case has a temporary directory of its own", _path(work), "@work"),
        Rule("cache", "every user has another cache", _path(cache), "@cache"),
        Rule("code", "what is compared are two checkouts", _path(code), "@code"),
    )


def normalised(text: str, table: Sequence[Rule]) -> str:
    """`text` with every rule of the table applied."""
    for rule in table:
        text = rule.pattern.sub(rule.put, text)
    return text

"""Many small rules judged in few compilations: rows of source that share a file, old, excused and really changed.

A row is about one function, `f~` (`~` stands for the row's name). The old
version of all rows is one object, what each rule must excuse a second one, and
the nearest real change of each a third: the verdict on a row is then the same
as if it stood alone, or something else is wrong too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pytest
from _pytest.mark import ParameterSet

from builder.binary import ObjectFile
from builder.compose.outcome import Diff
from builder.pipeline import diff_objects

Edit = tuple[str, str]


class Rule(NamedTuple):
    """`excused` and `real` are (was, becomes) in `source`; `lines`: what is excused is told as a moved line.

    `wrong` says what is known to be wrong with it, in the last of the two directions that it has.
    """

    name: str
    source: str
    excused: Edit | None = None
    real: Edit | None = None
    lines: bool = False
    wrong: str = ""

    @property
    def function(self) -> str:
        return f"f_{self.name}"

    def text(self, edit: Edit | None = None) -> str:
        source = self.source
        if edit is not None:
            assert edit[0] in source, f"{self.name}: nothing to change"
            source = source.replace(*edit)
        return source.replace("~", f"_{self.name}")


@dataclass(frozen=True)
class Judgement:
    """What `bespoke diff` says of the three objects of some rows."""

    excused: Diff
    real: Diff

    def of(self, rule: Rule, diff: Diff) -> str:
        """`changed`, `line_only` or empty for the function of a row."""
        functions: dict[str, Any] = diff.as_json()["functions"]
        return next((kind for kind in ("changed", "line_only") if rule.function in functions[kind]), "")

    def sees(self, rule: Rule) -> bool:
        """Whether the real change of a row is one of its function, or else is refused by a name of the row."""
        if self.of(rule, self.real) == "changed":
            return True
        named = re.compile(rf"_{rule.name}\b")
        return any(named.search(text) for r in self.real.judged.refusals for text in (r.symbol, r.section, r.message))


def judge_rules(rules: Sequence[Rule], build: Any, head: str = "", *flags: str, language: str = "c") -> Judgement:
    """Compile the rows of one language together, three times, and compare."""

    def made(texts: list[str]) -> ObjectFile:
        found: ObjectFile = build(head + "\n".join(texts), *flags, language=language)
        return found

    assert len({rule.name for rule in rules}) == len(rules)
    old = made([rule.text() for rule in rules])
    excused = made([rule.text(rule.excused) for rule in rules])
    real = made([rule.text(rule.real) for rule in rules])
    return Judgement(diff_objects(old, excused), diff_objects(old, real))


def rows(rules: Sequence[Rule], side: Literal["excused", "real"]) -> list[ParameterSet]:
    """The rows that have this direction; known mistakes are marked as such."""
    out = []
    for rule in rules:
        if getattr(rule, side) is not None:
            wrong = rule.wrong and (side == "real" or rule.real is None)
            marks = [pytest.mark.xfail(strict=True, reason=f"issue: {rule.wrong}")] if wrong else []
            out.append(pytest.param(rule, id=rule.name, marks=marks))
    return out

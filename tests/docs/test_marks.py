"""The recipes of docs/marks.md are marks that the campaign tries in a guest."""

from __future__ import annotations

from dataclasses import replace

from builder.cli import _parser
from builder.cli.mark_command import _marks
from builder.guide import docs
from tests.docs.test_pages import commands, fences
from tests.guest.marks import TRIALS


def test_each_recipe_is_tried_in_a_guest() -> None:
    tried = {replace(trial.mark, name="") for trial in TRIALS.values()}
    page = docs() / "marks.md"
    recipes = [words for words in commands(page.read_text()) if words[0] == "mark" and "--check" not in words]
    assert len(recipes) >= 10 and sum(how == "guest" for how, _ in fences(page)) == 10
    for words in recipes:
        for mark in _marks(_parser(words)[0].parse_args(words)):
            assert mark in tried

"""docs/glossary.md: in order, each of the project's own words with the module where it lives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "glossary.md").read_text()
PATH = re.compile(r"`(builder/[\w/]+\.py)`")


def entries(heading: str) -> dict[str, str]:
    """Word -> its text, of one part."""
    part = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=^- \*\*|\Z)", part, re.MULTILINE | re.DOTALL)
    assert len(found) == len(dict(found)) > 20, "a word stands there twice"
    return dict(found)


OWN, FIELD = entries("The project's own words"), entries("Terms of the field")


@pytest.mark.parametrize("words", [OWN, FIELD], ids=["own", "field"])
def test_the_words_are_in_order(words: dict[str, str]) -> None:
    assert list(words) == sorted(words, key=str.casefold)


@pytest.mark.parametrize("word", OWN)
def test_a_word_names_where_it_lives(word: str) -> None:
    (path,) = PATH.findall(OWN[word])
    assert (ROOT / path).is_file(), f"{path} is no more: where does {word!r} live now?"

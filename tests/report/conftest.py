"""Small compiled pairs, and a page read as a browser reads it."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from builder.compose.outcome import Diff
from builder.pipeline import diff_objects
from tests.support.compiling import Build, builder

Diffed = Callable[..., Diff]

# Elements without an end tag (HTML Living Standard, 13.1.2).
VOID = {"meta", "br", "col", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """A page's structure: ids, links, scripts, and the text in each element that has a class or an id."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str]]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[list[tuple[str, dict[str, str]]], str]] = []
        self.broken: list[str] = []
        self.feed(text)
        self.close()
        self.broken += [f"<{tag}> is not closed" for tag, _ in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        row = tag, {name: value or "" for name, value in attrs}
        self.tags.append(row)
        if tag not in VOID:
            self.open.append(row)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "p", "li", "h4", "dt", "dd", "caption", "summary"):
            self.texts.append((list(self.open), " "))
        if not self.open or self.open[-1][0] != tag:
            self.broken.append(f"</{tag}> at {self.getpos()} closes {self.open[-1][0] if self.open else 'nothing'}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((list(self.open), data))

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]

    def count(self, tag: str, cls: str = "") -> int:
        return sum(t == tag and (not cls or cls in a.get("class", "").split()) for t, a in self.tags)

    def text(self, *, id: str = "", cls: str = "", tag: str = "") -> str:
        """All text inside of elements with this id, class or tag, spaces made one."""
        found = (
            data
            for stack, data in self.texts
            if any(
                (not id or attrs.get("id") == id)
                and (not cls or cls in attrs.get("class", "").split())
                and (not tag or name == tag)
                for name, attrs in stack
            )
        )
        return " ".join("".join(found).split())


@pytest.fixture(scope="session")
def compiled(gcc: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """`compiled(source, *flags)`: the object of one C file."""
    return builder(gcc, tmp_path_factory.mktemp("units"), name="unit.o")


@pytest.fixture(scope="session")
def diffed(compiled: Build) -> Diffed:
    """`diffed(old, new, *flags)`: the diff of two sources' objects, traceable as the kernel's are."""

    def made(old: str, new: str, *flags: str) -> Diff:
        traced = ("-pg", "-mfentry", "-mrecord-mcount", *flags)
        return diff_objects(compiled(old, *traced), compiled(new, *traced))

    return made


def pair_paths(root: Path, name: str) -> tuple[Path, Path]:
    """Both objects of a pair of the test data."""
    for place in ("running-6.1.0-50", "corpus"):
        folder = root / place / "pairs" / name
        if folder.is_dir():
            return folder / "orig.o", folder / "patched.o"
    pytest.skip(f"the test data has no pair {name}")

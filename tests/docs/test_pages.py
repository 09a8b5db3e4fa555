"""The pages: what they say to run can be run, what they show of Python is Python, and what they link to is there.

A fence of the console says by a comment before it whether it is run here (`<!-- run -->`) or takes a guest or a machine
that is patched (`<!-- guest -->`); each command of both is held against the options that there are.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from builder.cli import _parsed, _parser, run
from builder.guide import docs
from tests.conftest import ROOT
from tests.docs.examples import RELEASE

PAGES = sorted(path for path in docs().rglob("*.md"))
OTHERS = [path for path in PAGES if path.parent.name != "codes"]
_CONSOLE = re.compile(r"(?:^<!-- (\w+) -->\n)?^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(docs()))


def fences(page: Path) -> Iterator[tuple[str, list[str]]]:
    """How each fence of the console is to be run, and its commands."""
    for how, text in _CONSOLE.findall(page.read_text()):
        yield how, [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of bespoke in a page."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in re.findall(r"^(?:\$ )?(bespoke [a-z].*)$", joined, re.MULTILINE):
        yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda path: path.stem)
def test_the_commands_have_the_options_that_there_are(page: Path) -> None:
    for words in commands(page.read_text()):
        parser, chosen = _parser(words)
        assert chosen == words[0], words
        _parsed(parser, words)


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_each_command_is_run_or_says_what_it_takes(page: Path) -> None:
    assert {how for how, _ in fences(page)} <= {"run", "guest"}


@pytest.mark.kernel
@pytest.mark.parametrize("page", [page for page in OTHERS if any(how == "run" for how, _ in fences(page))], ids=name)
def test_what_a_page_says_to_run_succeeds(
    page: Path, release_61: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page, beside the samples."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    for how, lines in fences(page):
        for line in lines if how == "run" else ():
            assert run(shlex.split(line.replace(RELEASE, release_61))[1:]) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_python(page: Path) -> None:
    for text in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        tree = ast.parse(text)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module([*imports], []), name(page), "exec"), {})


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Within the project: to files that are there, and to headings."""
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def anchors(page: str) -> set[str]:
    """Of the headings, as the site makes them."""
    heads = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert listed == {name(page) for page in PAGES}


def test_each_stage_has_its_picture() -> None:
    """Of the pipeline, drawn so that it says in words what it shows."""
    stages = re.findall(r"^## (\w+):", (docs() / "how.md").read_text(), re.MULTILINE)
    folders = {path.name for path in (ROOT / "builder").iterdir() if (path / "__init__.py").is_file()}
    assert set(stages) == folders - {"arch", "cli", "fleet", "report"}
    for stage in stages:
        root = ElementTree.parse(docs() / f"pictures/{stage}.svg").getroot()
        assert len(root.findtext("{http://www.w3.org/2000/svg}title", "").split()) > 6

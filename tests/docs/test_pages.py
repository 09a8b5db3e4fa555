"""The pages: what they say to run can be run, what they show of Python is Python, and what they link to is there.

A comment before commands says what becomes of them in these tests:

    run       they are run, in the order of the page, beside files of the names that the pages use
    guest     they are run too, in a guest or for one: a long test
    machine   they set a machine up, as a newcomer does: not run
    yours     an example with files that only the reader has: not run
    shown     what they print is compared with the page (tests/docs/test_inspect.py)

Each command of bespoke is held against the options that there are, whatever becomes of it.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from builder.cli import _parsed, _parser, run
from builder.guide import docs, sections
from builder.image.guest import Guest, MachineConfig, Share
from samples.objects import VMLINUX_PATCH, vmlinux_objects
from tests.conftest import ROOT
from tests.docs.examples import examples
from tests.operate.chroot import MOUNTS, PLACE, python
from tests.support.kernels import opened

PAGES = sorted(path for path in docs().rglob("*.md"))
README = ROOT / "README.md"
OTHERS = [*(path for path in PAGES if path.parent.name != "codes"), README]
WAYS = ("run", "guest", "machine", "yours", "shown")
BRIEF = ("tour.md", "marks.md")
"""Pages whose commands are run each time; those of the others by the long tests."""
ON_THE_MACHINE = ("load", "unload", "status", "probe", "watch")
"""Commands for the machine that is patched."""
_FENCE = re.compile(r"(?:^<!-- (\w+) -->\n)?^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_COMMAND = re.compile(r"^(\$ )?(bespoke|make|pip|git|openssl|dask|sudo|apt-get|python3?|tox) ", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(docs() if path.is_relative_to(docs()) else ROOT))


def fences(page: Path) -> Iterator[tuple[str, list[str]]]:
    """What becomes of each fence of commands, and the commands: `console`, or `sh` where each line is one."""
    for how, kind, text in _FENCE.findall(page.read_text()):
        if kind in ("console", "sh"):
            mark = "$ " if kind == "console" else ""
            lines = re.sub(r"\\\n\s*", " ", text).splitlines()
            yield how, [line.removeprefix(mark) for line in lines if line.startswith(mark) and line.strip()]


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of bespoke in a page."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in re.findall(r"^(?:\$ )?(bespoke [a-z].*)$", joined, re.MULTILINE):
        yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", [*PAGES, README], ids=name)
def test_the_commands_have_the_options_that_there_are(page: Path) -> None:
    for words in commands(page.read_text()):
        parser, chosen = _parser(words)
        assert chosen == words[0], words
        _parsed(parser, words)


@pytest.mark.parametrize("page", OTHERS, ids=name)
def test_each_command_is_run_or_says_what_it_takes(page: Path) -> None:
    """No command stands in a fence of another kind, and every fence says what it is."""
    assert {how for how, _ in fences(page)} <= {*WAYS}
    for how, kind, text in _FENCE.findall(page.read_text()):
        assert kind, text
        assert how in WAYS or not _COMMAND.search(text), text


def test_the_pages_of_codes_are_run_too() -> None:
    """Their commands stand in examples, and nowhere else."""
    for page in (path for path in PAGES if path not in OTHERS):
        shown = [example.command for code in sections(page.read_text()) for example in examples(code)]
        told = [row.removeprefix("$ ") for row in page.read_text().splitlines() if row.startswith("$ ")]
        assert sorted(told) == sorted(shown)


def with_run(page: Path, how: str) -> bool:
    return any(way == how for way, _ in fences(page))


@pytest.mark.kernel
@pytest.mark.parametrize("page", [
    pytest.param(page, id=name(page), marks=() if page.name in BRIEF else pytest.mark.long)
    for page in OTHERS if with_run(page, "run")
])  # fmt: skip
def test_what_a_page_says_to_run_succeeds(
    page: Path, release_61: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page, beside the samples."""
    monkeypatch.chdir(tmp_path)
    if page.name not in BRIEF:
        files_of_pages(release_61, tmp_path)
    scene(page, tmp_path)
    for words in to_run(page, "run", release_61):
        if words[0] == "bespoke":
            assert run(words[1:]) == 0, words
        else:
            subprocess.run(words, check=True, capture_output=True)


@pytest.mark.kernel
@pytest.mark.guest
@pytest.mark.long
@pytest.mark.parametrize(
    "page", [page for page in OTHERS if with_run(page, "guest") and page.name != "marks.md"], ids=name
)
def test_what_takes_a_guest_succeeds(
    page: Path, release_61: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made is made here; what is for the machine that is patched is run in a guest, by the same Python.

    The recipes of marks.md are a campaign (test_marks.py).
    """
    monkeypatch.chdir(tmp_path)
    files_of_pages(release_61, tmp_path)
    scene(page, tmp_path)
    assert run(["build", "old.o", "new.o", "--kernel", release_61, "-o", "fix.ko"]) == 0
    for words in to_run(page, "run", release_61):
        if words[1] in ("patch", "mark"):
            assert run(words[1:]) == 0, words
    config = MachineConfig(memory_mb=2048)
    with Guest(opened(release_61), config, shares=[Share(Path("/"), PLACE)]) as guest:
        guest.check(MOUNTS)
        for words in to_run(page, "guest", release_61):
            if words[1] not in ON_THE_MACHINE:
                assert run(words[1:]) == 0, words
                continue
            files = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words[1:]]
            ended = ("timeout", "--preserve-status", "--signal=INT", "30") if words[1] == "watch" else ()
            answer = python(guest, "-m", "builder", *files, before=ended)
            assert answer.status == 0, (words, answer.output)


def scene(page: Path, place: Path) -> None:
    """The samples, and the files that the page shows: fences with a title."""
    (place / "samples").symlink_to(ROOT / "samples")
    for title, text in re.findall(r'^```\w+ title="([\w.-]+)"\n(.*?)^```$', page.read_text(), re.MULTILINE | re.DOTALL):
        (place / title).write_text(text)


def to_run(page: Path, how: str, release: str) -> Iterator[list[str]]:
    """The commands of a page that are run so, of the release that the tests have."""
    for way, lines in fences(page):
        for line in lines if way == how else ():
            yield shlex.split(re.sub(r"\b6\.1\.0-\d+-amd64\b", release, line), comments=True)


def files_of_pages(release: str, place: Path) -> None:
    """The files that the pages name: a pair of objects, the patch that they come from, and a key."""
    pair = vmlinux_objects(release)
    for file, path in (("old.o", pair.old), ("new.o", pair.new), ("fix.patch", VMLINUX_PATCH)):
        (place / file).symlink_to(path)
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Tester", "-keyout", "key.pem"]
    subprocess.run(["openssl", *words, "-out", "key.crt"], cwd=place, check=True, capture_output=True)


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
        assert page not in PAGES or target.resolve().is_relative_to(docs().resolve()), f"{link} is not on the site"
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

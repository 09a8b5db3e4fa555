"""Code, page and example of each refusal, warning and finding belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.cli import run
from builder.codes import CODES
from builder.guide import docs, explain, sections
from tests.conftest import need
from tests.docs.examples import Example, Surroundings, examples

ALL = [example for code in CODES for example in examples(code)]
QUICK = [example for example in ALL if example.kind in ("diff", "tree")]
LONG = [example for example in ALL if example.kind == "source"]
OTHERS = [example for example in ALL if example not in (*QUICK, *LONG)]


def name(example: Example) -> str:
    return example.code


def test_every_code_has_one_section_on_its_page_and_no_other_has() -> None:
    stand = [(path.stem, code) for path in docs().glob("codes/*.md") for code in sections(path.read_text())]
    assert sorted(stand) == sorted((code.page, code.name) for code in CODES.values())


@pytest.mark.parametrize("code", CODES)
def test_a_section_says_what_it_is_with_an_example_and_the_way_out(code: str) -> None:
    section = explain(code)
    before, _, way_out = section.text.partition("**Way out.**")
    assert len(before.partition("<!--")[0].split()) >= 8 and len(way_out.split()) >= 3
    assert examples(code) and "<!--" not in section.shown


@pytest.mark.parametrize("example", QUICK, ids=name)
def test_two_versions_give_what_the_page_shows(gcc: str, tmp_path: Path, example: Example) -> None:
    assert example.fits(said := Surroundings(gcc, tmp_path, {}).said(example)), said


@pytest.mark.kernel
@pytest.mark.parametrize("example", OTHERS, ids=name)
def test_a_kernel_gives_what_the_page_shows(
    gcc: str, tmp_path: Path, request: pytest.FixtureRequest, example: Example
) -> None:
    if example.kind == "check":
        need("openssl")
    # A kernel from another suite is opened only for what needs it.
    wanted = {"6.1", *(set(example.words) & {"6.12", "7"})} | ({"6.12"} if "7" in example.words else set())
    releases = {series: request.getfixturevalue(f"release_{series.replace('.', '')}") for series in wanted}
    assert example.fits(said := Surroundings(gcc, tmp_path, releases).said(example)), said


@pytest.mark.long
@pytest.mark.kernel
@pytest.mark.parametrize("example", LONG, ids=name)
def test_a_source_gives_what_the_page_shows(gcc: str, tmp_path: Path, release_61: str, example: Example) -> None:
    assert example.fits(said := Surroundings(gcc, tmp_path, {"6.1": release_61}).said(example)), said


def test_explain_prints_the_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "data-grown"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("data-grown: a variable that is larger") and "**Way out.** Keep the old variable" in shown
    assert "<!--" not in shown and "static int ring[8]" in shown
    assert run(["explain", "data-grown", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["page"] == "docs/codes/change.md" and document["text"] in shown
    assert run(["explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CODES)
    assert run(["explain", "data-grow"]) == 2
    assert "there is no code data-grow; like it: data-grown" in capsys.readouterr().err

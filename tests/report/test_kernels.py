"""The table of kernels that were tried (builder/supported.py, builder/report/kernels.py) and its page."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from builder import supported
from builder.cli import run
from builder.cli.common import open_kernel
from builder.supported import STEPS, Proven, proven, series, tried
from samples.fixes import all_fixes
from tests.conftest import ROOT
from tests.proven import PAGE, write
from tests.support.kernels import opened


def test_the_page_is_what_the_table_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.proven.TABLE", tmp_path / "table")
    monkeypatch.setattr("tests.proven.PAGE", tmp_path / "page")
    write(proven()[::-1])
    assert (tmp_path / "page").read_text() == PAGE.read_text()
    assert (tmp_path / "table").read_text() == (ROOT / "builder/supported.json").read_text()


def test_the_rows_are_whole() -> None:
    rows = proven()
    assert len({row.release for row in rows}) == len(rows) and {"6.1", "6.12"} <= {row.series for row in rows}
    for row in rows:
        assert row.date and row.suite and row.steps and {*row.steps} <= {*STEPS}, row.release


def test_the_command_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["kernels"]) == 0
    shown = capsys.readouterr().out.split()
    assert run(["kernels", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["release"] for row in rows] == [row.release for row in proven()]
    assert {row["series"] for row in rows} <= {*shown}


@pytest.mark.parametrize(
    ("release", "is_series", "flavour"),
    [("6.12.94+deb13-amd64", "6.12", "standard"), ("6.1.0-56-rt-amd64", "6.1", "rt"),
     ("7.3-cloud-amd64", "7.3", "cloud"), ("mine", "mine", "standard")],
)  # fmt: skip
def test_a_release_by_its_name(release: str, is_series: str, flavour: str) -> None:
    row = Proven(release, "", "", {})
    assert (series(release), row.series, row.flavour) == (is_series, is_series, flavour)


@pytest.mark.kernel
def test_a_series_that_was_never_tried_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, release_61: str
) -> None:
    words = type("Words", (), {"kernel": str(opened(release_61).path), "suite": None})()
    assert open_kernel(words).release == release_61 and not caplog.records and tried(release_61)
    monkeypatch.setattr(supported, "proven", lambda: ())
    with caplog.at_level(logging.WARNING):
        open_kernel(words)
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == ["Linux 6.1 was never tried"]


def test_fixes_for_another_kernel_take_the_place_of_the_usual_ones() -> None:
    usual, newer = all_fixes("6.1.0-50-amd64"), all_fixes("7.2.13+deb14-amd64")
    assert {fix.path.name for fix in usual} < {fix.path.name for fix in newer}
    assert [fix.path.parent.name for fix in newer if fix.path.name.startswith("01-")] == ["linux-7"]

"""The table of the last runs of the benchmarks."""

from __future__ import annotations

from pathlib import Path

from tests.bench.kept import PAGE, RUNS, keep, last


def test_runs_are_kept_and_the_last_one_is_found(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("# Speed\n\nWhat it says.\n")
    assert last(page) == {} == last(tmp_path / "absent")
    keep({"--help": 0.0614}, page, machine="one")
    keep({"--help": 0.07, "diff": 0.165}, page, machine="another | one", load=1.25)
    assert last(page) == {"--help": 0.07, "diff": 0.165}
    text = page.read_text()
    assert (
        text.startswith("# Speed\n\nWhat it says.\n\n| date | machine | load | --help | diff |\n") and "| 1.2 |" in text
    )
    for number in range(RUNS):
        keep({"build": number}, page, machine="last")
    assert last(page) == {"build": RUNS - 1}
    assert page.read_text().count("| last |") == RUNS and "--help" not in page.read_text()


def test_the_page_holds_runs() -> None:
    """Those that were measured, each figure in seconds."""
    assert all(0 < seconds < 60 for seconds in last(PAGE).values())

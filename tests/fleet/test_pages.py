"""The report: what it says, and what a browser makes of it."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

from builder.fleet.orders import VERDICTS
from builder.fleet.pages import repeated, write_report
from tests.report.conftest import Page


def synthetic(fixes: int, kernels: int) -> dict[str, Any]:
    """The document of a fleet of so many fixes and kernels, with verdicts by chance."""
    chosen = random.Random(1)
    names = [f"6.{1 + number // 20}.0-{number}-amd64" for number in range(kernels)]
    refusal = {"code": "init-changed", "symbol": "<b>", "message": "<b> changed", "advice": "&", "fatal": False}
    cells = []
    for fix in range(fixes):
        for kernel in names:
            verdict = chosen.choice(list(VERDICTS))
            row = {
                "fix": f"fix_{fix}",
                "kernel": kernel,
                "verdict": verdict,
                "detail": "<script>alert(1)</script>",
                "functions": ["f"],
                "refusals": [refusal] if verdict == "refused" else [],
                "warnings": [],
                "checks": [{"cpu": "max", "patched": {"altinstructions": 3}}],
                "trial": None,
                "phases": {"patch": 3.2},
                "worker": "0",
                "tries": 1,
                "sha256": "ab" * 32 if verdict == "shipped" else "",
            }
            cells.append(row)
    return {
        "kernels": [{"name": name, "release": name, "version": "1", "sha256": ""} for name in names],
        "fixes": [{"name": f"fix_{n}", "subject": f"subject {n}", "cve": f"CVE-2026-{n}"} for n in range(fixes)],
        "counts": {name: sum(row["verdict"] == name for row in cells) for name in VERDICTS},
        "seconds": 1.0,
        "cells": cells,
        "packages": [{"file": "packages/fix-0.deb", "fix": "fix_0", "kernels": names}] if kernels else [],
    }


def test_the_matrix_and_a_place_for_each_cell(tmp_path: Path) -> None:
    index = synthetic(20, 5)
    read = Page(write_report(index, tmp_path).read_text())
    assert read.broken == [] and read.count("script") == 1
    for name, row in VERDICTS.items():
        assert read.count("td", name) == index["counts"][name] and row.sentence in read.text(tag="li")
    for fix in index["fixes"]:
        page = Page((tmp_path / f"fixes/{fix['name']}.html").read_text())
        assert page.broken == [] and page.count("script") == 1
        assert set(page.values("id")) >= {kernel["name"] for kernel in index["kernels"]}
        assert all((tmp_path / "fixes" / link).exists() for link in page.values("href") if "index" in link)
    assert "../packages/fix-0.deb" in read.values("href")
    (again,) = repeated(index["cells"])
    assert again.cells == index["counts"]["refused"] and again.code == "init-changed"


def test_the_matrix_in_a_browser(browser: str, tmp_path: Path) -> None:
    """Its scripts run without an error, and what was in the fleet's texts does not."""
    page = write_report(synthetic(20, 5), tmp_path)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert b"CONSOLE" not in done.stderr, done.stderr
    seen = Page(done.stdout.decode())
    assert seen.count("input") == 1 and seen.count("button") == 2 + len(VERDICTS)

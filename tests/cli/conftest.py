"""The command line as a script sees it: a process, its two streams, its status, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.acquire.packages import fetch_kernel
from tests.conftest import data_root, needed
from tests.running.pairs import RELEASE


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout, which must be one JSON document."""
        return json.loads(self.out)

    def problem(self, status: int = 2) -> str:
        """The one line that says what is wrong; nothing on stdout, no traceback.

        Beside it may stand what a slow machine is told of a step that takes long.
        """
        assert self.status == status, self
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if not line.startswith("bespoke: 1 object to compile")]
        assert len(lines) == 1 and lines[0].startswith("bespoke: "), self.err
        return lines[0]


Bespoke = Callable[..., Ran]


@pytest.fixture
def bespoke(tmp_path: Path) -> Bespoke:
    """`bespoke(*words)`: run in a directory with a TMPDIR of its own, which must be empty afterwards."""
    temporary = tmp_path / "TMPDIR"
    temporary.mkdir()

    def run(*words: object, env: dict[str, str] | None = None, timeout: float = 120) -> Ran:
        command = [sys.executable, "-m", "builder", *map(str, words)]
        root = Path(__file__).resolve().parents[2]
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(root), **(env or {})}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)
        assert "Traceback" not in done.stderr and "defect" not in done.stderr, done.stderr
        assert list(temporary.iterdir()) == [], "temporary files were left"
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def pair() -> Path:
    """A pair that ships: one changed function of vmlinux."""
    return data_root() / "running-6.1.0-50/pairs/fs__hugetlbfs__inode"


@pytest.fixture(scope="session")
def image() -> Path:
    """The kernel that the pair is for."""
    with needed():
        return fetch_kernel(RELEASE).image

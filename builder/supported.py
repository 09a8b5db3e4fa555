"""What has been proven, and on which kernels: the table that `bespoke kernels` shows.

The rows are data beside this file, written by the command that proves them (`python -m tests.proven`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

STEPS: Final = ("decode", "build", "patch", "check", "identical", "try", "kprobes")
"""What can be proven: the image is decoded; livepatches are built, from source patches; modules of the kernel's own
tree are accepted by the simulated loader, and come out of it as of the kernel's; livepatches are tried in a guest;
probes follow."""


@dataclass(frozen=True, slots=True)
class Proven:
    """One kernel: where it came from, when it was proven, and each step's outcome such as `151 of 151`."""

    release: str
    suite: str
    date: str
    steps: Mapping[str, str]

    @property
    def series(self) -> str:
        return series(self.release)

    @property
    def flavour(self) -> str:
        """`standard`, `cloud` or `rt`."""
        found = re.search(r"-(cloud|rt)-", self.release)
        return found[1] if found is not None else "standard"


def series(release: str) -> str:
    """The first two numbers of a release: `6.12.94+deb13-amd64` is of 6.12; the release itself where it has none."""
    found = re.match(r"\d+\.\d+", release)
    return found[0] if found is not None else release


@cache
def proven() -> tuple[Proven, ...]:
    """All rows, in the order of their series."""
    return tuple(Proven(**row) for row in json.loads(files("builder").joinpath("supported.json").read_text("utf-8")))


def tried(release: str) -> bool:
    """Whether any kernel of this series was ever tried."""
    return any(row.series == series(release) for row in proven())

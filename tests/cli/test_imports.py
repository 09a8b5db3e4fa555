"""What a command loads: to look at a kernel takes neither the pipeline nor what reads and writes objects."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

HEAVY = {"builder.compare", "builder.compose", "builder.emit", "capstone", "elftools", "jinja2", "lief", "unicorn"}
RUN = "import sys; from builder.cli import run; run(sys.argv[1:]); print('loaded', *sys.modules)"


def loaded(*words: str) -> set[str]:
    command = [sys.executable, "-c", RUN, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "loaded"
    return set(last[1:])


@pytest.mark.parametrize(
    "words", [("status",), ("load", "/nowhere.ko"), ("unload", "nothing"), ("probe", "a:b")], ids=lambda words: words[0]
)
def test_the_commands_for_this_machine(words: tuple[str, ...]) -> None:
    assert HEAVY & loaded(*words) == set()


def test_a_diff_loads_what_it_needs() -> None:
    """The check sees what is loaded."""
    found = loaded("diff", "/nowhere.o", "/nowhere.o")
    assert "builder.compare" in found and not {"lief", "unicorn"} & found

"""What a command loads: what it uses, for to load the rest takes longer than most commands.

To look at a kernel takes neither the pipeline nor what reads and writes objects; a document is made without what
draws for people, and no page is loaded that nobody asked for.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from builder.compare.contents import texts
from tests.conftest import ROOT
from tests.support.compiling import builder

UNREAD = {"capstone", "elftools.dwarf", "elftools.elf.elffile"}
"""Packages of which only a part is used, and what is not: the tables of other machines, and of debug information."""
HEAVY = {"builder.compare", "builder.compose", "builder.emit", "capstone", "elftools", "jinja2", "unicorn"}
SHOWN = {"rich", "builder.cli.page", "builder.report.html", "builder.report.spelled"}
"""What draws, on a terminal or on a page."""
KERNEL = {"builder.binary.kernel", "sqlite3"}
RUN = "import sys; from builder.cli import run; run(sys.argv[1:]); print('loaded', *sys.modules)"


def loaded(*words: str) -> set[str]:
    command = [sys.executable, "-c", RUN, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    last = done.stdout.splitlines()[-1].split()
    assert last[0] == "loaded", done.stderr
    return set(last[1:])


@pytest.mark.parametrize(
    "words", [("status",), ("load", "/nowhere.ko"), ("unload", "nothing"), ("probe", "a:b")], ids=lambda words: words[0]
)
def test_the_commands_for_this_machine(words: tuple[str, ...]) -> None:
    assert HEAVY & loaded(*words) == set()


def test_help_loads_no_command() -> None:
    found = {name for name in loaded("--help") if name.startswith("builder.")}
    assert found <= {
        *("builder.__main__", "builder.acquire", "builder.acquire.whole", "builder.cli", "builder.cli.common"),
        *("builder.cli.progress", "builder.codes", "builder.errors"),
    }


def test_a_diff_loads_what_it_needs(gcc: str, tmp_path: Path) -> None:
    """A difference that is found in the code; the check sees what is loaded."""
    build = builder(gcc, tmp_path)
    old, new = (build(f"int f(int a) {{ return a + {n}; }}").name for n in (1, 2))
    found = loaded("diff", old, new, "--json")
    assert {"builder.compare", "builder.arch.disassembler"} <= found
    assert not (SHOWN | KERNEL | UNREAD | {"builder.emit", "elftools", "jinja2", "unicorn"}) & found
    assert "rich" in loaded("diff", old, new)
    assert not (SHOWN | KERNEL | {"builder.compare.dwarf", "ctypes"}) & loaded("diff", old, old, "--json")


def test_what_is_kept_of_a_diff_tells_all_that_makes_it(gcc: str, tmp_path: Path) -> None:
    """Each file that a diff loads counts, but for what asks for it, writes it down, and keeps it."""
    build = builder(gcc, tmp_path)
    old, new = (build(f"int f(int a) {{ return a + {n}; }}").name for n in (1, 2))
    beside = {"builder.acquire", *(f"builder.acquire.{name}" for name in ("cache", "own_text", "sums", "whole"))}
    root = ROOT / "builder"
    known = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in texts("compose") if root in file.parents
    }
    names = {name.removesuffix(".__init__") for name in known}
    found = {name for name in loaded("diff", old, new, "--json") if name.partition(".")[0] == "builder"}
    assert {name for name in found - names - beside if not name.startswith("builder.cli")} == set()
    assert {"builder.pipeline", "builder.acquire.shifts"} <= names


@pytest.mark.parametrize("command", ["build", "mark", "patch"])
def test_what_makes_a_module_loads_no_page(command: str) -> None:
    assert not (SHOWN | {"builder.preflight", "unicorn"}) & loaded(command, "--help")


@pytest.mark.data
@pytest.mark.kernel
def test_a_build_and_a_check_load_what_they_need(pair: Path, image: Path, tmp_path: Path) -> None:
    output = tmp_path / "fix.ko"
    words = (str(pair / "orig.o"), str(pair / "patched.o"), "--kernel", str(image), "-o", str(output), "--json")
    found = loaded("build", *words)
    written = output.read_bytes()
    assert "elftools" in found
    assert not (SHOWN | UNREAD | {"builder.acquire.source", "builder.acquire.patchfile", "unicorn"}) & found
    # What renders the glue is not needed to make the same again.
    assert "jinja2" not in loaded("build", *words) and output.read_bytes() == written

    checked = loaded("check", str(output), "--kernel", str(image), "--json")
    assert not (SHOWN | UNREAD | {"builder.compare", "builder.compose", "builder.emit", "elftools"}) & checked

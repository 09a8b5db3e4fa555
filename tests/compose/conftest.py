"""Small pairs compiled as the kernel compiles its own, judged by what `bespoke diff` says of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.binary import ObjectFile, read_object
from builder.compose.outcome import Diff
from builder.pipeline import diff_objects
from tests.conftest import lacks

FLAGS = (
    "-c", "-std=gnu11", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-pic", "-mcmodel=kernel",
    "-mno-red-zone", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-stack-protector",
    "-fno-strict-aliasing", "-mno-sse", "-pg", "-mfentry", "-mrecord-mcount", "-w",
)  # fmt: skip

PRELUDE = """
#define noinline __attribute__((noinline))
#define notrace __attribute__((no_instrument_function))
#define noinstr noinline notrace __attribute__((__section__(".noinstr.text")))
#define __init __attribute__((__section__(".init.text")))
#define __exit __attribute__((__section__(".exit.text")))
#define __section(name) __attribute__((__section__(name)))
#define __used __attribute__((__used__))
#define EXPORT_SYMBOL(name) \\
    static const void *const __ksymtab_##name __attribute__((__used__, __section__("___ksymtab+" #name))) = &name
#define EXPORT_SYMBOL_GPL(name) \\
    static const void *const __ksymtab_##name __attribute__((__used__, __section__("___ksymtab_gpl+" #name))) = &name
int printk(const char *format, ...);
"""

Judge = Callable[..., Diff]


@pytest.fixture(scope="session")
def gcc() -> str:
    program = shutil.which("gcc-12") or shutil.which("gcc")
    if program is None:
        lacks("not installed: gcc (make setup)")
    return program


@pytest.fixture
def compiled(gcc: str, tmp_path: Path) -> Callable[..., ObjectFile]:
    """`compiled(source, *flags)`: the object of one C file; the file's name is always the same."""
    count = 0

    def made(source: str, *flags: str) -> ObjectFile:
        nonlocal count
        count += 1
        place = tmp_path / str(count)
        place.mkdir()
        (place / "unit.c").write_text(PRELUDE + source)
        command = [gcc, *FLAGS, *flags, "unit.c", "-o", "unit.o"]
        run = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return read_object(place / "unit.o")

    return made


@pytest.fixture
def judged(compiled: Callable[..., ObjectFile]) -> Judge:
    """`judged(old, new)`, or `judged(source, (was, becomes), ...)`; `allow` as on the command line."""

    def made(old: str, *changes: str | tuple[str, str], allow: str = "", flags: tuple[str, ...] = ()) -> Diff:
        new = old
        for change in changes:
            if isinstance(change, str):
                new = change
            else:
                assert change[0] in new, "nothing to change"
                new = new.replace(*change)
        code, _, symbol = allow.partition(":")
        allowed = [(code, symbol)] if allow else []
        return diff_objects(compiled(old, *flags), compiled(new, *flags), allowed=allowed)

    return made


def codes(found: Diff) -> list[tuple[str, str]]:
    """(code, symbol) of each refusal."""
    return sorted((refusal.code, refusal.symbol) for refusal in found.judged.refusals)


def roles(found: Diff) -> dict[str, str]:
    """What travels, and why."""
    return {atom.name: role.value for atom, role in found.selection.functions.items()}


def data(found: Diff) -> set[str]:
    return {atom.name for atom in found.selection.data}

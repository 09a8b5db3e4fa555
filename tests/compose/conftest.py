"""Small pairs compiled as the kernel compiles its own, judged by what `bespoke diff` says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.acquire.shifts import Shift
from builder.compose.outcome import Diff
from builder.errors import Allowed
from builder.pipeline import diff_objects
from tests.support.compiling import TRACED, Build, builder

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


@pytest.fixture
def compiled(gcc: str, tmp_path: Path) -> Build:
    """`compiled(source, *flags)`: the object of one C file; the file's name is always the same."""
    build = builder(gcc, tmp_path, TRACED)
    return lambda source, *flags: build(PRELUDE + source, *flags)


@pytest.fixture
def judged(compiled: Build) -> Judge:
    """`judged(old, new)`, or `judged(source, (was, becomes), ...)`; `allow` as for --allow, with spaces between."""

    def made(
        old: str,
        *changes: str | tuple[str, str],
        allow: str = "",
        flags: tuple[str, ...] = (),
        shifts: tuple[Shift, ...] = (),
    ) -> Diff:
        new = old
        for change in changes:
            if isinstance(change, str):
                new = change
            else:
                assert change[0] in new, "nothing to change"
                new = new.replace(*change)
        allowed = Allowed.parse(allow.split())
        return diff_objects(compiled(old, *flags), compiled(new, *flags), shifts=shifts, allowed=allowed)

    return made


def codes(found: Diff) -> list[tuple[str, str]]:
    """(code, symbol) of each refusal."""
    return sorted((refusal.code, refusal.symbol) for refusal in found.judged.refusals)


def roles(found: Diff) -> dict[str, str]:
    """What travels, and why."""
    return {atom.name: role.value for atom, role in found.selection.functions.items()}


def data(found: Diff) -> set[str]:
    return {atom.name for atom in found.selection.data}

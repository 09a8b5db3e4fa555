"""A weak function that another definition overrides is left out; one that is in use, or is other code, is not."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from builder.binary import ObjectFile
from builder.compose.outcome import Diff
from builder.compose.overridden import without_overridden
from builder.compose.owner import Objects
from builder.compose.running import RunningModule
from builder.errors import NOTHING
from tests.compose.conftest import Judge, codes, roles

SOURCE = """
__attribute__((weak)) int arch_limit(int x) { return x + 3; }
int entry(int x) { return arch_limit(x) * 5; }
"""
STRONG = """
int arch_limit(int x) { return x << 9; }
int entry(int x) { return arch_limit(x) * 5; }
"""

Compiled = Callable[..., ObjectFile]


def against(diff: Diff, running: ObjectFile) -> Diff:
    """`diff` as it is for a module `target` that is the object `running`."""
    module = RunningModule("target", running)
    objects = SimpleNamespace(get=lambda name: module, kernel=SimpleNamespace(release="6.1.0-test"))
    return without_overridden(diff, cast(Objects, objects), "target", NOTHING)


def test_an_overridden_one_is_left_out_by_name(judged: Judge, compiled: Compiled) -> None:
    found = against(judged(SOURCE, ("x + 3", "x + 4"), ("* 5", "* 6")), compiled(STRONG))
    assert roles(found) == {"entry": "changed"} and found.verdict == "changed"
    (warning,) = (w for w in found.judged.warnings if w.code == "weak-overridden")
    assert warning.symbol == "arch_limit" and "6.1.0-test" in warning.message
    assert against(found, compiled(STRONG)).judged.warnings == found.judged.warnings


def test_where_nothing_else_changed_nothing_ships(judged: Judge, compiled: Compiled) -> None:
    found = against(judged(SOURCE, ("x + 3", "x + 4")), compiled(STRONG))
    assert found.selection.is_empty and found.verdict == "unchanged"
    assert [w.code for w in found.judged.warnings] == ["weak-overridden"]


@pytest.mark.parametrize("running", [SOURCE, SOURCE.replace("x + 3", "x + 8")], ids=["in use", "other code"])
def test_one_that_is_in_use_is_not_left_out(judged: Judge, compiled: Compiled, running: str) -> None:
    """Whether its code is what runs is then for the comparison with the running bytes to say."""
    before = judged(SOURCE, ("x + 3", "x + 4"))
    assert against(before, compiled(running)) is before


def test_what_was_accepted_stays_accepted(judged: Judge, compiled: Compiled) -> None:
    source = SOURCE + "int __init begin(void) { return entry(1) + 8; }"
    before = judged(source, ("+ 8", "+ 9"), ("x + 3", "x + 4"), ("* 5", "* 6"), allow="init-changed:begin")
    after = against(before, compiled(STRONG))
    assert codes(after) == [] and [r.symbol for r in after.judged.accepted] == ["begin"]

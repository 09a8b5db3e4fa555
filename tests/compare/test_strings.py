"""Strings of wide characters compare to their own end, as those of plain ones do."""

from __future__ import annotations

import pytest

from builder.compare import View
from builder.compose.references import piece_at
from tests.compare.conftest import Pair, names
from tests.support.compiling import Build

HEAD = "typedef unsigned short c2; typedef unsigned int c4; extern int w(const void *);\n"
FRAME = HEAD + 'int g(void) {{ return w({0}"other") + 1; }} int f(void) {{ return w({0}"{1}") + 1; }}'


@pytest.mark.parametrize("prefix", ["", "u", "U"])
@pytest.mark.parametrize(("old", "new"), [("SecureMode", "SecureBoot"), ("a", "ab"), ("\u0161a", "\u0161b")])
def test_a_changed_text_is_a_change(pair: Pair, prefix: str, old: str, new: str) -> None:
    comparison = pair(FRAME.format(prefix, old), FRAME.format(prefix, new))
    assert names(comparison.changed) == ["f"]
    assert repr(old) in comparison.functions[comparison.changed[0]].reason


@pytest.mark.parametrize("prefix", ["u", "U"])
def test_the_same_text_elsewhere_is_the_same(pair: Pair, prefix: str) -> None:
    moved = FRAME.replace('return w({0}"other")', 'w({0}"first"); return w({0}"other")')
    assert names(pair(FRAME.format(prefix, "same"), moved.format(prefix, "same")).changed) == ["g"]


@pytest.mark.parametrize(("old", "new"), [("u", "U"), ("", "u")])
def test_another_width_is_a_change(pair: Pair, old: str, new: str) -> None:
    source = HEAD + 'int f(void) {{ return w({}"") + 1; }}'
    assert names(pair(source.format(old), source.format(new)).changed) == ["f"]


@pytest.mark.parametrize(("prefix", "width"), [("", 1), ("u", 2), ("U", 4)])
def test_the_whole_string_travels(build: Build, prefix: str, width: int) -> None:
    view = View(build(FRAME.format(prefix, "SecureMode")))
    function = view.by_name["f"]
    targets = [view.target(r, view.bias(function, r)) for r in view.relocations(function)]
    (piece,) = [piece_at(view, target) for target in targets if target.kind == "section"]
    found = piece.section.data[piece.start : piece.end]
    assert len(found) == len("SecureMode\0") * width and found[::width] == b"SecureMode\0"


def test_a_changed_constant_that_points_at_a_wide_string_is_another(pair: Pair) -> None:
    frame = HEAD + 'int f(void) {{ static const c2 *const names[] = {{ u"one", u"{}" }}; return w(names); }}'
    comparison = pair(frame.format("two"), frame.format("too"))
    assert names(comparison.changed) == ["f"]

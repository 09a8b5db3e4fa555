"""What `--allow CODE:SYMBOL` accepts: one meaning for whoever asks."""

from __future__ import annotations

import pytest

from builder.codes import WrittenCode
from builder.errors import NOTHING, Allowed, Refusal, UsageError
from builder.load.accept import Finding


def refusal(code: str, symbol: str, *, fatal: bool = False) -> Refusal:
    return Refusal(code, symbol, "", "because", "do something", fatal=fatal)


def test_one_symbol_or_all_of_a_code() -> None:
    allowed = Allowed.parse(["init-changed:begin", "data-changed:*", "patch-makefile:fs/a:b/Makefile"])
    assert allowed.covers(refusal("init-changed", "begin")) and not allowed.covers(refusal("init-changed", "other"))
    assert allowed.covers(refusal("data-changed", "limit")) and allowed.covers(refusal("data-changed", "*"))
    assert allowed.covers(refusal("patch-makefile", "fs/a:b/Makefile"))
    assert not allowed.covers(refusal("exit-changed", "begin")) and not NOTHING.covers(refusal("data-changed", "x"))


def test_nobody_can_accept_what_would_crash() -> None:
    allowed = Allowed.parse(["noinstr:quiet", "noinstr:*"])
    assert allowed.covers(refusal("noinstr", "quiet"))
    assert not allowed.covers(refusal("noinstr", "quiet", fatal=True))


def test_both_of_two() -> None:
    both = Allowed.parse(["comdat:x"]) | Allowed.parse(["vdso:y"])
    assert both == Allowed.parse(["vdso:y", "comdat:x"])
    assert both.covers(refusal("comdat", "x")) and both.covers(refusal("vdso", "y"))


@pytest.mark.parametrize("text", ["", "code", "code:", ":symbol", ":"])
def test_what_is_no_pair_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--allow takes CODE:SYMBOL, not") as caught:
        Allowed.parse(["comdat:b", text])
    assert repr(text) in str(caught.value)


def test_a_code_that_nothing_has_is_named_with_what_is_like_it() -> None:
    with pytest.raises(UsageError, match=r"--allow init-change:f: there is no code init-change; like it: init-changed"):
        Allowed.parse(["init-change:f"])


def test_a_code_without_a_row_cannot_be_made() -> None:
    """What a module's manifest has is another version's, and is shown as it is."""
    with pytest.raises(ValueError, match=r"'made-up' has no row in builder/codes\.py"):
        refusal("made-up", "f")
    with pytest.raises(ValueError, match="made-up"):
        Finding("made-up", "message")
    assert refusal(WrittenCode("made-up"), "f").as_json()["code"] == "made-up"

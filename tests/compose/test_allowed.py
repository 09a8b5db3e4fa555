"""What `--allow CODE:SYMBOL` accepts: one meaning for whoever asks."""

from __future__ import annotations

import pytest

from builder.errors import NOTHING, Allowed, Refusal, UsageError


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
    both = Allowed.parse(["a:x"]) | Allowed.parse(["b:y"])
    assert both == Allowed.parse(["b:y", "a:x"]) and both.covers(refusal("a", "x")) and both.covers(refusal("b", "y"))


@pytest.mark.parametrize("text", ["", "code", "code:", ":symbol", ":"])
def test_what_is_no_pair_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--allow takes CODE:SYMBOL, not") as caught:
        Allowed.parse(["a:b", text])
    assert repr(text) in str(caught.value)

"""Overwriting an entry: works where it may, and says why where it must not."""

from __future__ import annotations

import pytest

from builder.errors import LoadError
from builder.image.simulated import SimulatedKernel
from builder.load import overwrite

pytestmark = pytest.mark.kernel


def test_the_new_function_runs_until_the_bytes_are_back(simulated: SimulatedKernel) -> None:
    old, new = simulated.symbols.find_function("gcd"), simulated.symbols.find_function("int_sqrt")
    before = simulated.memory.read(old, 16)
    done = overwrite.redirect(simulated, old, new)
    assert simulated.call(old, 144, 9).value == 12
    overwrite.restore(simulated, done)
    assert simulated.memory.read(old, 16) == before
    assert simulated.call(old, 144, 9).value == 9


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("909090eb fc", "branches into the first bytes"),  # at +3: back to +1
        ("9090900f85f9ffffff", "branches into the first bytes"),  # at +3: jne +2
        ("9090909090 e8f9ffffff", "branches into the first bytes"),  # at +5: call +3
    ],
)
def test_a_branch_into_the_overwritten_bytes_is_seen(simulated: SimulatedKernel, code: str, words: str) -> None:
    function = simulated.symbols.find_function("gcd")
    place = overwrite.entry(simulated, function)
    before = simulated.memory.read(place, 16)
    simulated.memory.write(place, bytes.fromhex(code.replace(" ", "")).ljust(16, b"\x90"))
    try:
        assert any(words in text for text in overwrite.objections(simulated, function))
        with pytest.raises(LoadError, match=words):
            overwrite.redirect(simulated, function, simulated.symbols.find_function("lcm"))
    finally:
        simulated.memory.write(place, before)


def test_a_function_that_is_too_short_is_refused(simulated: SimulatedKernel) -> None:
    short = next(
        symbol
        for symbol in simulated.kernel.symbols_in(*simulated.facts.text)
        if 0 < simulated.symbols.function_size(symbol.address) < overwrite.JUMP_SIZE
    )
    assert "a jump needs 5" in overwrite.objections(simulated, short.address)[0]


def test_what_something_else_wrote_is_not_restored(simulated: SimulatedKernel) -> None:
    old = simulated.symbols.find_function("gcd")
    done = overwrite.redirect(simulated, old, simulated.symbols.find_function("lcm"))
    simulated.memory.write(done.place, b"\x90" * 5)
    with pytest.raises(LoadError, match="overwritten by something else"):
        overwrite.restore(simulated, done)
    simulated.memory.write(done.place, done.before)

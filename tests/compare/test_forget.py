"""A comparison that was told is gone at once: of thousands the collector of circles has nothing to look for."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from builder.compare import Atom, View
from builder.pipeline import diff_document
from tests.conftest import data_root


def held() -> int:
    """Views and atoms that are in memory, those of other tests among them."""
    return sum(isinstance(thing, View | Atom) for thing in gc.get_objects())


@pytest.mark.data
def test_nothing_of_a_pair_is_left_to_the_collector() -> None:
    place: Path = data_root() / "conformance/x86_64/cold-add"
    files = place / "orig.o", place / "patched.o"
    gc.collect()
    gc.disable()
    try:
        before = held()
        assert diff_document(*files)["functions"]["changed"]
        assert held() <= before
    finally:
        gc.enable()

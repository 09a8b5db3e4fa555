"""A small part of the campaign of single mutations (`tox -e single`): nothing passes in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.binary import read_object
from tests.compare.single import KINDS, mutations, said
from tests.conftest import data_root

OBJECTS = ("cold-add", "data-new", "cmdline-ubsan", "new-function")


@pytest.mark.data
@pytest.mark.parametrize("name", OBJECTS)
def test_no_single_mutation_is_silent(name: str) -> None:
    path: Path = data_root() / "conformance/x86_64" / name / "orig.o"
    obj = read_object(path)
    assert said(obj, obj) == ""
    found = list(mutations(obj, 4 * len(KINDS), seed=7))
    assert {mutated.kind for mutated in found} == set(KINDS)
    assert [f"{m.kind}: {m.what}" for m in found if not said(obj, m.object)] == []


def test_the_same_seed_makes_the_same_mutations() -> None:
    path = data_root() / "conformance/x86_64/cold-add/orig.o"
    if not path.is_file():
        pytest.skip(f"no test data at {data_root()} (set BESPOKE_DATA)")
    obj = read_object(path)
    assert [m.what for m in mutations(obj, 30, 1)] == [m.what for m in mutations(obj, 30, 1)]
    assert [m.what for m in mutations(obj, 30, 1)] != [m.what for m in mutations(obj, 30, 2)]

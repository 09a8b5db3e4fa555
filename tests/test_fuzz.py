"""A small part of the fuzz campaign (`tox -e fuzz`): no traceback, no hang, no gigabyte."""

from __future__ import annotations

import mmap

import pytest

from tests import fuzz
from tests.conftest import needed
from tests.running.pairs import RELEASE
from tests.support.kernels import opened

CASES = 72
"""Of each subject: some 500 in all."""


@pytest.mark.data
@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.SUBJECTS)
def test_damaged_inputs_end_in_an_answer_or_an_error(name: str) -> None:
    with needed():
        opened(RELEASE)
    outcomes = [fuzz.one(name, case, seed=11) for case in range(CASES)]
    assert [row for row in outcomes if row.kind not in ("answer", "error")] == []
    assert any(row.kind == "answer" for row in outcomes)


def test_a_case_is_the_same_wherever_it_is_run() -> None:
    first = [fuzz.one("patch", case, seed=3)[:3] for case in range(10)]
    assert [fuzz.one("patch", case, seed=3)[:3] for case in reversed(range(10))] == first[::-1]


def test_a_hang_a_defect_and_a_gigabyte_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def loop() -> None:
        while True:
            pass

    def large() -> None:
        with mmap.mmap(-1, 64 << 20) as pages:  # not from what the process has and does not use
            for at in range(0, len(pages), mmap.PAGESIZE):
                pages[at] = 1

    def defect() -> None:
        [][1]

    monkeypatch.setattr(fuzz, "MOST_SECONDS", 0.5)
    monkeypatch.setattr(fuzz, "MOST_MEMORY", 32 << 20)
    for work, kind in ((loop, "hang"), (large, "memory"), (defect, "traceback")):
        made = fuzz.Subject([b"x"], (), lambda _data, _rng, _folder, work=work: work())  # type: ignore[misc]
        monkeypatch.setattr(fuzz, "subject", lambda _name, made=made: made)
        assert fuzz.one("any", 0, 1).kind == kind

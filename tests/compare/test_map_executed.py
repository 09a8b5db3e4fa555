"""What the map pairs for sure runs as often, when both versions of real functions are executed on equal inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compare import compare
from tests.compare.executed import judge, judged
from tests.compare.test_map_rules import written
from tests.support.compiling import Build

RUNS = 8


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    "pair",
    ["running-6.1.0-50/pairs/crypto__af_alg", "running-6.1.0-50/pairs/mm__page_reporting",
     "corpus/pairs/arch__x86__kernel__alternative", "corpus/pairs/net__sched__sch_ets",
     "corpus/pairs/security__keys__keyring"],
)  # fmt: skip
def test_sure_places_run_as_often(data: Path, pair: str) -> None:
    verdicts = [verdict for _, verdict in judged(data / pair, RUNS)]
    assert [text for verdict in verdicts for text in verdict.wrong] == []
    assert sum(verdict.executed for verdict in verdicts) > 20 and sum(verdict.runs for verdict in verdicts) >= RUNS // 2


def test_what_runs_in_another_number_is_seen(build: Build) -> None:
    """The new version makes no call, and returns the same; it counts its rounds otherwise, which no map can tell."""
    old = ["movl $3, %ecx", "1: notl %eax", "subl $1, %ecx", "jne 1b", "xorl %eax, %eax", "ret"]
    new = ["movl $5, %ecx", *old[1:]]
    comparison = compare(build(written(old), language="assembler"), build(written(new), language="assembler"))
    verdict = judge(comparison, comparison.new.by_name["f"], RUNS)
    assert verdict is not None and verdict.runs == RUNS
    assert any("ran 3 times, [1] 5" in text for text in verdict.wrong)

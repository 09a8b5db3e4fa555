"""All pairs of the running kernel: what ships is loaded, reached and taken out again without a warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from builder.binary.kernel import Kernel
from tests.running.__main__ import outcomes, table, visited
from tests.running.pairs import ACCEPTED, RELEASE, Outcome
from tests.running.triggers import TRIGGERS
from tests.running.visit import NEVER_LEFT, Visit
from tests.support.kernels import opened

REFUSED = {
    "drivers__net__ppp__ppp_async": "data-changed",
    "kernel__trace__blktrace": "no-ftrace-file",
    "net__core__pktgen": "never-returns",
}
"""What cannot ship as it is; everything else must."""


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return opened(RELEASE)


@pytest.fixture(scope="module")
def found(kernel: Kernel, data: Path) -> Sequence[Outcome]:
    return outcomes(data, kernel)


QUICK = (
    "crypto__af_alg",
    "drivers__net__gtp",
    "drivers__net__ppp__ppp_async",
    "fs__hugetlbfs__inode",
    "fs__orangefs__devorangefs-req",
    "io_uring__rsrc",
    "mm__secretmem",
    "net__rds__connection",
    "net__tipc__udp_media",
    "security__apparmor__procattr",
)
"""Modules and the kernel itself, one function and several, data in the way; each with a command that reaches it."""


def problems(outcome: Outcome, rows: Sequence[Visit]) -> list[str]:
    """What a pair's visits lack."""
    wanted = ["vmlinux"] if outcome.owner == "vmlinux" else ["target later", "target first"]
    said = [f"{visit.order}: {problem}" for visit in rows for problem in visit.problems]
    if [visit.order for visit in rows] != wanted:
        said.append(f"not every order was tried: {[visit.order for visit in rows]}")
    for visit in rows:
        if not (visit.loaded and visit.unloaded):
            said.append(f"{visit.order}: not loaded and unloaded")
        if len(visit.redirected) != len(outcome.replaced) or not visit.redirected:
            said.append(f"{visit.order}: redirected only {visit.redirected}")
        if visit.held and outcome.pair not in NEVER_LEFT:
            said.append(f"{visit.order}: held up by {visit.held}")
    return said


@pytest.mark.data
@pytest.mark.kernel
def test_what_can_ship_and_what_cannot(found: Sequence[Outcome]) -> None:
    refused = {outcome.pair: outcome.refused for outcome in found if not outcome.accepted}
    assert {pair: codes for pair, codes in refused.items() if codes} == {p: (c,) for p, c in REFUSED.items()}
    assert all(outcome.module for outcome in found if not outcome.refused)
    assert {outcome.pair for outcome in found if outcome.accepted and outcome.module} == set(ACCEPTED)


@pytest.mark.data
@pytest.mark.kernel
@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("pairs", [QUICK, pytest.param((), marks=pytest.mark.long)], ids=["some", "all"])
def test_what_ships_works_in_the_kernel(kernel: Kernel, found: Sequence[Outcome], pairs: Sequence[str]) -> None:
    found = [outcome for outcome in found if not pairs or outcome.pair in pairs]
    seen: Mapping[str, list[Visit]] = visited(kernel, found)
    bad = {o.pair: said for o in found if o.module and (said := problems(o, seen[o.pair]))}
    Console(width=200).print(table(found, dict(seen)))  # shown where the test fails
    assert bad == {}
    assert set(seen) == set(pairs or (o.pair for o in found if o.module))
    assert set(pairs or TRIGGERS) <= set(seen) & set(TRIGGERS), "a command for a pair that is not there"

"""A module with one livepatch relocation for each symbol, as kernels want it that walk all of their symbols for each:

what the others write, which are ordinary ones, is what runs, is what a kprobe copies, and does not end a stack trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from builder.acquire.compile import AS_USUAL
from builder.acquire.source import fetch_source
from builder.binary import ObjectFile, elf, klp, read_object
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.image.guest import Guest
from builder.image.machine import KPROBE_EVENTS, TRACING
from builder.pipeline import ModulePlan, patch
from samples.fixes import PATCHES
from tests.conftest import needed

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.long]

NAME = "bound_once"
PATCH = PATCHES / "06-proc-task-inline.patch"
"""To a header: its functions refer to the same symbols again and again."""
READ = """(cd /proc/self; cat comm maps smaps numa_maps environ; echo 1 > clear_refs; echo 0 > oom_score_adj
ls -l fd fdinfo ns map_files task; stat fd/0 map_files/1-2 ns/mnt; dd if=mem count=1) > /dev/null 2>&1"""
ENTERED = "entry_SYSCALL_64_after_hwframe"
CALL = 0xE8


@dataclass(frozen=True, slots=True)
class Site:
    """A call whose operand an ordinary relocation against a livepatch symbol writes."""

    function: str
    offset: int
    callee: str


def call_sites(obj: ObjectFile) -> Iterator[Site]:
    """All of them in functions of the module."""
    functions = [symbol for symbol in obj.symbols if symbol.type == elf.STT_FUNC]
    for section in obj.sections:
        if not section.is_exec:
            continue
        for r in obj.relocations_of(section.index):
            symbol = obj.symbols[r.symbol]
            if not klp.is_symbol(symbol.name) or section.data[r.offset - 1] != CALL:
                continue
            callee = klp.parse_symbol(symbol.name).name
            for f in functions:
                if f.shndx == section.index and f.value < r.offset < f.value + f.size:
                    yield Site(f.name, r.offset - 1 - f.value, callee)


@pytest.fixture(scope="module")
def module(kernel_61: Kernel) -> bytes:
    with needed("no source"):
        tree = fetch_source(kernel_61.release)
    made = patch([PATCH], tree, Objects(kernel_61), ModulePlan(NAME), AS_USUAL)
    assert made.module is not None
    return made.module.content


@pytest.fixture
def loaded(kernel_61: Kernel, module: bytes) -> Iterator[Guest]:
    with Guest(kernel_61) as guest:
        guest.check(f"(while true; do {READ}; done) & echo $! > /tmp/reader")
        assert guest.insmod(module, NAME).ok
        guest.wait_transition(NAME)
        yield guest


def test_what_is_bound_once_runs_is_probed_and_unwound(loaded: Guest, module: bytes) -> None:
    sites = list(call_sites(read_object(module)))
    assert len({site.function for site in sites}) > 10
    mark = loaded.mark()
    assert loaded.check("cat /proc/2/comm 2>&1; cat /proc/self/comm").split("\n")[-2:] == ["cat", ""]
    for number, site in enumerate(sites):
        loaded.check(f"echo 'p:once/at_{number} {NAME}:{site.function}+{site.offset}' >> {KPROBE_EVENTS}")
        loaded.check(f"echo stacktrace > {TRACING}/events/once/at_{number}/trigger")
    loaded.check(f"echo 1 > {TRACING}/events/once/enable; {READ}; echo 0 > {TRACING}/events/once/enable")
    rows = (line.split() for line in loaded.check(f"cat {TRACING}/kprobe_profile").splitlines())
    hits = {row[0]: (int(row[1]), int(row[2])) for row in rows}
    assert set(hits) == {f"at_{number}" for number in range(len(sites))}
    assert {missed for _, missed in hits.values()} == {0}
    run = {site.function for number, site in enumerate(sites) if hits[f"at_{number}"][0]}
    assert len(run) > 4, run
    traces = [re.findall(r"=> (\S+)", text) for text in loaded.check(f"cat {TRACING}/trace").split("<stack trace>")[1:]]
    seen = set()
    for trace in traces:
        at = next(place for place, name in enumerate(trace) if name in run)
        assert len(trace) > at + 3 and trace[-1] == ENTERED, trace
        seen.add(trace[at])
    assert seen == run
    loaded.check(f"for t in {TRACING}/events/once/at_*/trigger; do echo '!stacktrace' > $t; done; : > {KPROBE_EVENTS}")
    loaded.disable_livepatch(NAME)
    loaded.check("kill $(cat /tmp/reader)")
    assert loaded.rmmod(NAME).ok
    assert loaded.warnings(mark) == ()

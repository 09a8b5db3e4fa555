"""The probed module on a kernel, with probes of each kind; the same on a guest and on a simulated kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.image.machine import KPROBE_EVENTS, TRACING, Host
from builder.operate.live import Live
from builder.operate.simhost import SimulatedHost
from tests.operate.versions import NAME, Probed, offsets

# Offsets in version 0: see `inner` and `outer` in the module's source.
PROBES = {
    "entry": "p:b/entry {module}:outer",
    "mid": "p:b/mid {module}:inner+{mid}",
    "cold": "p:b/cold {module}:inner.cold+{cold}",
    "late": "p:b/late {module}:inner+{late}",
    "deep": "p:b/deep {module}:inner.cold+{deep}",
    "ret": "r:b/ret {module}:outer",
    "arg": "p:b/arg {module}:inner+{early} kind=%di:u32 x=%si:u32",
    "off": "p:b/off {module}:inner+{early}",
}
FILTER = "kind == 3"
COUNTED = tuple(event for event in PROBES if event != "off")
_RARE = ("cold", "deep", "arg")
FOLLOWING = 6
"""Events that have a place in every version: all but `entry` and `ret`."""


def expected(calls: int, rare: int) -> dict[str, int]:
    """Hits of the counted events by `calls` calls, `rare` of them of kind 3."""
    return {event: rare if event in _RARE else calls for event in COUNTED}


def plant(host: Host, made: Probed) -> None:
    """All probes; `arg` has a filter, and all but `off` are enabled and counted by a histogram."""
    for line in PROBES.values():
        host.write(KPROBE_EVENTS, line.format(module=NAME, **offsets(made)) + "\n", append=True)
    host.write(f"{TRACING}/events/b/arg/filter", FILTER)
    for event in PROBES:
        if event != "off":
            arm(host, event)


def arm(host: Host, event: str) -> None:
    """Count and enable an event; a filter of the event is the histogram's too."""
    condition = f" if {FILTER}" if event == "arg" else ""
    host.write(f"{TRACING}/events/b/{event}/trigger", f"hist:keys=common_type{condition}")
    host.write(f"{TRACING}/events/b/{event}/enable", "1")


def histogram(text: str) -> int:
    found = re.search(r"Hits: (\d+)", text)
    assert found is not None, text
    return int(found[1])


def facts(text: str) -> Mapping[str, int]:
    """The module's line: `calls 3 sum ...`."""
    words = text.split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@dataclass
class SimulatedScene:
    """The module in a simulated kernel, with what the calls of it must have come to."""

    host: SimulatedHost
    calls: int = 0
    rare: int = 0
    results: list[int] = field(default_factory=list)

    def call(self, kind: int, count: int) -> None:
        for x in range(count):
            self.results.append(int(self.host.call(f"{NAME}:outer", kind, x)))
        self.calls += count
        self.rare += count if kind == 3 else 0

    def live(self) -> Live:
        return Live(self.host)

    def counts(self) -> dict[str, int]:
        return {event: self.host.hits(f"b/{event}") for event in COUNTED}

    @property
    def expected(self) -> dict[str, int]:
        return expected(self.calls, self.rare)

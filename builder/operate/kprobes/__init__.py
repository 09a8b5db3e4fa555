"""Kprobes follow the code: what is planted, where it stands in the new version, and what to do about it.

Everything here is a function of values; `builder.operate.trail` acts on them. In
the order of use: `events` reads what the kernel says, `arguments` what a probe
fetches, `versions` what the manifests map, `plan` decides.
"""

from __future__ import annotations

from builder.operate.kprobes.events import Event, Planted, Spot, parse_events, parse_list
from builder.operate.kprobes.plan import Addition, ProbeFacts, ProbePlan, Report, plan
from builder.operate.kprobes.versions import Mapped, ProbeSymbols, Version

__all__ = [
    "Addition",
    "Event",
    "Mapped",
    "Planted",
    "ProbeFacts",
    "ProbePlan",
    "ProbeSymbols",
    "Report",
    "Spot",
    "Version",
    "parse_events",
    "parse_list",
    "plan",
]

"""The pairs, and what `build` makes of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit import Module
from builder.errors import Allowed, RefusedError
from builder.pipeline import ModulePlan, build, diff

RELEASE: Final = "6.1.0-50-amd64"

ACCEPTED: Final = {
    "drivers__net__ppp__ppp_async": ("data-changed", "ppp_ldisc"),
    "net__core__pktgen": ("never-returns", "pktgen_thread_worker"),
}
"""Refusals of judgement that a person who has read the fix can accept."""


@dataclass(frozen=True)
class Outcome:
    """What came of building a pair: a module, or the codes of its refusals, or neither (nothing changed)."""

    pair: str
    milliseconds: float
    module: Module | None = None
    refused: Sequence[str] = ()
    accepted: Sequence[str] = field(default=())

    @property
    def owner(self) -> str:
        return ",".join(self.module.manifest.objects) if self.module else ""

    @property
    def replaced(self) -> tuple[tuple[str, str, int], ...]:
        """(symbol of the new version, old name, sympos) of every redirected function."""
        rows = self.module.manifest.redirected if self.module else ()
        return tuple((r.symbol, r.old.name, r.old.sympos) for r in rows if r.old is not None)

    @property
    def verdict(self) -> str:
        if self.refused:
            return f"refused: {', '.join(self.refused)}"
        return "built" if self.module else "unchanged"


def places(root: Path) -> dict[str, Path]:
    """Pair -> its folder, in order of name."""
    return {place.name: place for place in sorted((root / "running-6.1.0-50" / "pairs").glob("*")) if place.is_dir()}


def module_name(pair: str) -> str:
    return f"bespoke_{pair}".replace("-", "_")[:55]


def built(place: Path, kernel: Kernel, accepted: Sequence[tuple[str, str]] = ()) -> Outcome:
    """Build one pair, timed in milliseconds of CPU."""
    allowed = Allowed(frozenset(accepted))
    started = time.process_time()
    module, refused = None, tuple[str, ...]()
    try:
        found = diff(place / "orig.o", place / "patched.o", allowed=allowed)
        module = build([found], Objects(kernel), ModulePlan(module_name(place.name)))
    except RefusedError as error:
        refused = tuple(dict.fromkeys(refusal.code for refusal in error.refusals))
    spent = (time.process_time() - started) * 1e3
    return Outcome(place.name, spent, module, refused, tuple(f"{code}:{symbol}" for code, symbol in accepted))

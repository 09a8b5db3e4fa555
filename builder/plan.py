"""What is asked of a module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.compose.selection import MOST_CALLERS
from builder.errors import NOTHING, Allowed


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """Its name, and what it may do.

    `replace` lets it take the place of all earlier livepatches; `on` is an earlier
    module of ours to stack on (or, with `replace`, to take the place of). At most `limit` callers carry what cannot
    be redirected. `compiler` is noted in the module, as `Manifest` says.
    """

    name: str
    replace: bool = False
    on: Path | None = None
    allowed: Allowed = NOTHING
    limit: int = MOST_CALLERS
    compiler: tuple[str, ...] = ()

"""What comes of source patches: the objects that they change, what changed in each, and the module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from builder.acquire.patch import PatchObjects
from builder.compose.outcome import ChangeRefusedError, Diff
from builder.emit.kept_parts import KeptPart
from builder.emit.module import Module
from builder.errors import Refusal


@dataclass(frozen=True)
class Patched:
    """What source patches change, and the module: None where nothing that runs changed.

    `told` is what is known of each pair of objects; `compare` gives the diffs where that is less.
    """

    objects: PatchObjects
    told: tuple[Diff | KeptPart, ...]
    module: Module | None
    compare: Callable[[], tuple[Diff, ...]] = field(default=tuple, repr=False)

    @cached_property
    def diffs(self) -> tuple[Diff, ...]:
        """A diff for each pair of objects, in the same order."""
        diffs = tuple(row for row in self.told if isinstance(row, Diff))
        return diffs if len(diffs) == len(self.told) else self.compare()

    @property
    def documents(self) -> list[dict[str, Any]]:
        """What `Diff.as_json` says of each."""
        return [row.as_json() for row in self.told]

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the replaced functions."""
        return tuple(f.name for f in self.module.manifest.redirected) if self.module else ()

    @property
    def warnings(self) -> tuple[Refusal, ...]:
        """What was left out and what to look at, of the patches and of each object."""
        found = (w for row in self.told for w in row.warnings)
        return tuple(dict.fromkeys([*self.objects.warnings, *found]))


class PatchRefusedError(ChangeRefusedError):
    """Patches whose objects were compiled and compared, and may not ship; what was known of them by then."""

    def __init__(self, refusals: Sequence[Refusal], objects: PatchObjects, diffs: Sequence[Diff]) -> None:
        super().__init__(refusals, diffs, noted=objects.warnings)
        self.objects = objects

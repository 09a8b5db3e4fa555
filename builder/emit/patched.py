"""What comes of source patches: the objects that they change, what changed in each, and the module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.acquire.patch import PatchObjects
from builder.compose.outcome import ChangeRefusedError, Diff
from builder.emit.module import Module
from builder.errors import Refusal


@dataclass(frozen=True, slots=True)
class Patched:
    """Pairs of objects, a diff for each in the same order, the module: None where nothing that runs changed."""

    objects: PatchObjects
    diffs: tuple[Diff, ...]
    module: Module | None

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the replaced functions."""
        return tuple(f.name for f in self.module.manifest.redirected) if self.module else ()

    @property
    def warnings(self) -> tuple[Refusal, ...]:
        """What was left out and what to look at, of the patches and of each object."""
        found = (w for diff in self.diffs for w in diff.judged.warnings)
        return tuple(dict.fromkeys([*self.objects.warnings, *found]))


class PatchRefusedError(ChangeRefusedError):
    """Patches whose objects were compiled and compared, and may not ship; what was known of them by then."""

    def __init__(self, refusals: Sequence[Refusal], objects: PatchObjects, diffs: Sequence[Diff]) -> None:
        super().__init__(refusals, diffs, noted=objects.warnings)
        self.objects = objects

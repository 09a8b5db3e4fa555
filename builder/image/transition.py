"""A livepatch and its transition, as the kernel shows them (Documentation/livepatch/livepatch.rst, v6.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LIVEPATCHES: Final = "/sys/kernel/livepatch"
_DEEPEST: Final = 4
"""Frames of a stack that are shown: where a task sleeps, not how it came there."""
_NO_TRANSITION: Final = "-1"


@dataclass(frozen=True, slots=True)
class PatchState:
    """What /sys/kernel/livepatch/MODULE shows: whether it is (to be) enabled, and whether that is under way."""

    enabled: bool
    transition: bool

    @classmethod
    def parse(cls, enabled: str, transition: str) -> PatchState:
        """From the contents of the two files."""
        return cls(enabled.strip() == "1", transition.strip() == "1")


def holds_up(patch_state: str, *, enabled: bool) -> bool:
    """Whether a task whose /proc/PID/task/TID/patch_state is this is what a transition to `enabled` waits for."""
    return patch_state.strip() not in (str(int(enabled)), _NO_TRANSITION)


def describe_task(tid: str, command: str, stack: Iterable[str]) -> str:
    """`TID COMMAND STACK` from the name of a task and the lines of its stack (`[<0>] FUNCTION+OFFSET/SIZE`)."""
    frames = [line.partition("] ")[2] for line in list(stack)[:_DEEPEST]]
    return " ".join([tid, command.strip(), *frames])

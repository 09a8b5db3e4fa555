"""What the kernel shows of a transition, in words of its own."""

from __future__ import annotations

import pytest

from builder.image.transition import PatchState, describe_task, holds_up


@pytest.mark.parametrize(
    ("shown", "enabled", "stuck"),
    [("0\n", True, True), ("1\n", True, False), ("1\n", False, True), ("0\n", False, False), ("-1\n", True, False)],
)
def test_a_task_that_has_not_changed_over_holds_the_transition_up(shown: str, enabled: bool, stuck: bool) -> None:
    assert holds_up(shown, enabled=enabled) is stuck
    assert not holds_up("-1", enabled=enabled), "no transition is under way"


def test_a_task_is_shown_with_the_first_frames_of_its_stack() -> None:
    stack = [f"[<0>] f{i}+0x1/0x2" for i in range(6)]
    assert describe_task("12", "my task\n", stack) == "12 my task f0+0x1/0x2 f1+0x1/0x2 f2+0x1/0x2 f3+0x1/0x2"
    assert describe_task("12", "sh", []) == "12 sh"


def test_the_state_of_a_patch() -> None:
    assert PatchState.parse("1\n", "0\n") == PatchState(enabled=True, transition=False)
    assert PatchState.parse("0", "1") == PatchState(enabled=False, transition=True)

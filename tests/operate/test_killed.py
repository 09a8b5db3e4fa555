"""Killed at any step between load and done, or unload and done: a repair brings back what was recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builder.errors import UsageError
from builder.image.machine import OPTIMIZATION
from builder.operate.live import Live
from builder.operate.survey import survey
from tests.operate.killed import Killed, KillingHost
from tests.operate.scene import SimulatedScene, expected
from tests.operate.versions import Probed

pytestmark = [pytest.mark.kernel]
MOST = 60


def killed(scene: SimulatedScene, work: Callable[[Live], object], at: int) -> str | None:
    """Do `work`, killed before step `at`; the step, or None where the work was done before it."""
    host = KillingHost(scene.host, at)
    try:
        work(Live(host))
    except Killed as step:
        return str(step)
    return None


def settled(scene: SimulatedScene) -> bool:
    """After a repair: nothing is interrupted, every probe counts; whether the livepatch is there."""
    before = scene.counts()
    scene.call(1, 1)
    scene.call(3, 1)
    after = scene.counts()
    assert {event: after[event] - before[event] for event in after} == expected(2, 1)
    status = survey(scene.host)
    assert status.interrupted is None
    assert scene.host.read(OPTIMIZATION).strip() == "1"
    return bool(status.patches)


def test_killed_while_loading(scene: SimulatedScene, made: Probed) -> None:
    module = made.build(0, 1, "p1")
    for at in range(MOST):
        step = killed(scene, lambda live: live.load(module, "p1.ko"), at)
        if step is None:
            break
        if survey(scene.host).interrupted:
            with pytest.raises(UsageError, match="status --repair"):
                scene.live().load(module, "p1.ko")
            scene.live().repair()
        if settled(scene):
            scene.live().unload("p1")
        assert not settled(scene), step
        assert "p1:" not in scene.host.read("/sys/kernel/tracing/kprobe_events")
    else:
        pytest.fail(f"not done after {MOST} steps")
    assert at >= 8, "the steps of a load"


def test_killed_while_unloading(scene: SimulatedScene, made: Probed) -> None:
    module = made.build(0, 1, "p1")
    for at in range(MOST):
        if not survey(scene.host).patches:
            scene.live().load(module, "p1.ko")
        if killed(scene, lambda live: live.unload("p1"), at) is None:
            break
        scene.live().repair()
        settled(scene)
    else:
        pytest.fail(f"not done after {MOST} steps")
    assert at >= 8, "the steps of an unload"
    assert not settled(scene)


def test_killed_while_repairing(scene: SimulatedScene, made: Probed) -> None:
    module = made.build(0, 1, "p1")
    for at in range(MOST):
        assert killed(scene, lambda live: live.load(module, "p1.ko"), 4) is not None
        done = killed(scene, lambda live: live.repair(), at) is None
        scene.live().repair()
        if settled(scene):
            scene.live().unload("p1")
        if done:
            break
    else:
        pytest.fail(f"not done after {MOST} steps")

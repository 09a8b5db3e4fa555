"""A transition that a task holds up: taken back on time, the task named, nothing lost."""

from __future__ import annotations

import errno
import os

import pytest

from builder.errors import LoadError
from builder.image.machine import KPROBE_EVENTS, Between
from builder.image.transition import LIVEPATCHES
from builder.operate.live import Live
from builder.operate.survey import survey
from tests.operate.killed import KillingHost
from tests.operate.scene import SimulatedScene
from tests.operate.versions import Probed

pytestmark = [pytest.mark.kernel]
SLEEPER = "42 sleeper inner+0x14"


class HeldUp(KillingHost):
    """A host whose transition to `wanted` never ends; the way back is free."""

    def __init__(self, scene: SimulatedScene, wanted: str) -> None:
        super().__init__(scene.host, at=1_000_000)
        self._wanted = wanted
        self._target = "1"

    def read(self, path: str) -> str:
        if path.startswith(LIVEPATCHES) and self._target == self._wanted:
            if path.endswith("/transition"):
                return "1\n"
            if path.endswith("/enabled"):
                return f"{self._target}\n"
        return super().read(path)

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        if path.startswith(LIVEPATCHES):
            self._target = text
            if self._wanted == "0":
                return  # it begins, and is held up; or it is taken back
        super().write(path, text, append=append)

    def waiting(self, *, enabled: bool) -> tuple[str, ...]:
        return (SLEEPER,)


def test_a_load_that_is_held_up_is_taken_back(scene: SimulatedScene, made: Probed) -> None:
    before = scene.host.read(KPROBE_EVENTS)
    with pytest.raises(LoadError, match=rf"held up by {SLEEPER.replace('+', '.')}.*taken back"):
        Live(HeldUp(scene, "1"), timeout=0.01).load(made.build(0, 1, "p1"), "p1.ko")
    assert scene.host.read(KPROBE_EVENTS) == before
    assert survey(scene.host).patches == () and "p1" not in scene.host.kernel.modules
    scene.call(3, 4)
    assert scene.counts() == scene.expected
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")


def test_an_unload_that_is_held_up_enables_again(scene: SimulatedScene, made: Probed) -> None:
    scene.live().load(made.build(0, 1, "p1"), "p1.ko")
    with pytest.raises(LoadError, match="enabled again"):
        Live(HeldUp(scene, "0"), timeout=0.01).unload("p1")
    assert [(p.module, p.state) for p in survey(scene.host).patches] == [("p1", "enabled")]
    assert survey(scene.host).interrupted is None
    scene.call(3, 4)
    assert scene.counts() == scene.expected


def test_a_refused_module_leaves_nothing(scene: SimulatedScene, made: Probed) -> None:
    class Refusing(KillingHost):
        def insert(self, module: bytes, name: str = "", between: Between | None = None) -> None:
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))

    before = scene.host.read(KPROBE_EVENTS)
    with pytest.raises(LoadError, match="the kernel refused it"):
        Live(Refusing(scene.host, 1_000_000)).load(made.build(0, 1, "p1"), "p1.ko")
    assert scene.host.read(KPROBE_EVENTS) == before and survey(scene.host).patches == ()

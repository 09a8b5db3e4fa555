"""The probed module in a simulated kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from builder.load import livepatch
from builder.operate.simhost import SimulatedHost
from builder.preflight.check import Checker
from tests.conftest import needed
from tests.operate.scene import SimulatedScene, plant
from tests.operate.versions import Probed, probed


@pytest.fixture(scope="session")
def made(release_61: str) -> Probed:
    with needed():
        return probed(release_61)


@pytest.fixture(scope="session")
def simulated(made: Probed) -> SimulatedHost:
    return SimulatedHost(Checker(made.kernel).simulated("max"))


@pytest.fixture
def scene(made: Probed, simulated: SimulatedHost) -> Iterator[SimulatedScene]:
    """The module loaded, all probes planted and armed; nothing is left behind."""
    simulated.insert(made.module.read_bytes())
    plant(simulated, made)
    yield SimulatedScene(simulated)
    simulated.remove("/run/bespoke/trail.json")
    livepatch.unload_all(simulated.kernel)
    simulated.registry.probes.clear()
    simulated.registry.events.clear()
    simulated.registry.direct.clear()

"""The probed module in a simulated kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from builder.errors import BespokeError
from builder.load import livepatch
from builder.load.check import Checker
from builder.load.simhost import SimulatedHost
from tests.conftest import lacks
from tests.probes.scene import SimulatedScene, plant
from tests.probes.versions import Probed, offsets, probed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is known not to hold yet: on a busy host probes moved into `.cold` parts lose calls while a patch goes."""
    known = pytest.mark.xfail(reason="calls of a probe in a .cold part are lost while a patch is loaded", strict=False)
    for item in items:
        if item.path.parent.name == "probes":
            item.add_marker(known)


@pytest.fixture(scope="session")
def made(release_61: str) -> Probed:
    try:
        return probed(release_61)
    except BespokeError as error:
        lacks(str(error))


@pytest.fixture(scope="session")
def simulated(made: Probed) -> SimulatedHost:
    return SimulatedHost(Checker(made.kernel).simulated("max"))


@pytest.fixture
def scene(made: Probed, simulated: SimulatedHost) -> Iterator[SimulatedScene]:
    """The module loaded, all probes planted and armed; nothing is left behind."""
    simulated.insert(made.module.read_bytes())
    plant(simulated, **offsets(made))
    yield SimulatedScene(simulated)
    simulated.remove("/run/bespoke/trail.json")
    livepatch.unload_all(simulated.kernel)
    simulated.registry.probes.clear()
    simulated.registry.events.clear()
    simulated.registry.direct.clear()

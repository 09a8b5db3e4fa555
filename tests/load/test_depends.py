"""Modules that need others, as their `depends=` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import LoadError
from builder.image.simulated import SimulatedKernel
from builder.load.loader import load_with_dependencies
from tests.binary.test_bounds import object_of, section

pytestmark = pytest.mark.kernel


def test_modules_that_wait_for_each_other(simulated: SimulatedKernel, tmp_path: Path) -> None:
    """There was no end to it but that of the stack."""
    files = {name: tmp_path / f"{name}.ko" for name in ("circle_a", "circle_b", "circle_c")}
    for (name, path), other in zip(files.items(), (*list(files)[1:], "circle_a"), strict=True):
        path.write_bytes(object_of(section(1, ".modinfo", data=f"name={name}\0depends={other}\0".encode())))
    with pytest.raises(LoadError, match="depends on circle_b, which waits for it"):
        load_with_dependencies(simulated, files["circle_a"], files)
    assert not simulated.modules

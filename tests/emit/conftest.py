"""The target sample's module, emitted for each kernel."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from builder.binary import ObjectFile, read_object
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit import Module
from builder.pipeline import ModulePlan, build, diff
from samples.objects import TARGET_NAME, TargetObjects, target_objects
from tests.conftest import needed
from tests.support.kernels import opened


@dataclass(frozen=True)
class Emitted:
    """A module for the target sample and the model of it."""

    kernel: Kernel
    target: TargetObjects
    module: Module

    @property
    def model(self) -> ObjectFile:
        return read_object(self.module.content)

    @property
    def series(self) -> str:
        return ".".join(self.kernel.release.split(".")[:2])


def emitted_for(release: str) -> Emitted:
    """Compile the sample, and build its module."""
    kernel = opened(release)
    with needed():
        target = target_objects(release)
    objects = Objects(kernel, {TARGET_NAME: target.module})
    module = build([diff(target.old, target.new)], objects, ModulePlan("demand"))
    assert module is not None
    return Emitted(kernel, target, module)


@pytest.fixture(scope="module")
def emitted(release: str) -> Emitted:
    return emitted_for(release)

"""Whose an object is that several modules were linked with (builder/compose/owner.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder.binary import ObjectFile
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects, for_each_owner
from builder.pipeline import ModulePlan, build
from tests.compose.conftest import Judge
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel


def test_an_object_of_two_modules_is_patched_in_both(
    release_61: str, judged: Judge, compiled: Callable[..., ObjectFile]
) -> None:
    kernel = opened(release_61)

    def objects(kernel: Kernel, **modules: ObjectFile) -> Objects:
        return Objects(kernel, {name: Path(obj.name) for name, obj in modules.items()})

    source = "int told_by_name(int x) { return x + 1; } int beside(int x) { return x * 5; }"
    pair, there = judged(source, ("x + 1", "x + 2")), compiled(source)
    alike = objects(kernel, one=there, two=there)
    assert for_each_owner([pair, pair], [None, "two"], alike) == ([pair] * 3, ["one", "two", "two"])
    made = build([pair], alike, ModulePlan("fix"))
    assert made is not None and sorted(made.manifest.objects) == ["one", "two"]
    # Where one of them runs other code in any of the functions, it is not plain that the object is the same.
    apart = objects(kernel, one=there, two=compiled(source.replace("x * 5", "x * 7")))
    assert for_each_owner([pair], [None], apart) == ([pair], [None])

"""Marks on variables that the image's own debug information has no location for at that line."""

from __future__ import annotations

import pytest

from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.marks import mark
from builder.pipeline import ModulePlan
from tests.conftest import needed
from tests.guest.marks import TRIALS
from tests.guest.unseen import location_of

pytestmark = [pytest.mark.kernel, pytest.mark.long]

UNSEEN = {"unseen_unlink": "target", "unseen_links": "target", "unseen_return": "ret"}
"""The marks of tests.guest.marks, which are tried in a guest, and the variable of each that nothing else shows."""


def test_a_mark_shows_what_the_debug_information_does_not(kernel_61: Kernel) -> None:
    """The module is built, so the objects' functions were found in the image byte by byte: their DWARF is its own."""
    with needed("no source"):
        tree = find_source(None, SourceTarget(kernel_61.release, banner=kernel_61.banner))
    marks = [TRIALS[name].mark for name in UNSEEN]
    assert all(variable in one.words[-1] for one, variable in zip(marks, UNSEEN.values(), strict=True))
    made = mark(marks, tree, Objects(kernel_61), ModulePlan("unseen"))
    assert made.patched.module is not None and made.patched.module.manifest.redirected
    objects = {pair.path.removesuffix(".o"): pair.old for pair in made.patched.objects.pairs}
    for one, variable in zip(made.source.placed, UNSEEN.values(), strict=True):
        (spot,) = one.spots
        obj = objects[spot.source.path.removesuffix(".c")]
        seen = location_of(obj, spot.function.name, spot.line, variable)
        assert seen.addresses and not seen.located, one.place
    # It has one elsewhere: the reader of locations finds those that there are.
    assert location_of(objects["fs/namei"], "vfs_unlink", 4360, "dentry").located

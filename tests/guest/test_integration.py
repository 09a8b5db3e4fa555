"""Changes of the kinds that public integration suites of the field have: each builds and works, or ships nothing.

The patches of tests/guest/integration say in their heads what to run, and what is seen without and with them
(samples/fixes.py), or that they ship nothing and with which code. Callbacks, shadow variables and system calls are in
samples/authors.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.acquire.compile import AS_USUAL
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.pipeline import ModulePlan, patch
from samples.fixes import make_and_try, read_fix
from tests.conftest import needed

pytestmark = [pytest.mark.kernel, pytest.mark.guest, pytest.mark.long]

PATCHES = sorted(Path(__file__).with_name("integration").glob("*.patch"))
NOTHING = re.compile(r"^Ships: nothing\nSays:(.*)$", re.MULTILINE)


def test_both_kinds_are_there() -> None:
    assert len(PATCHES) == 8 and sum(bool(NOTHING.search(path.read_text())) for path in PATCHES) == 2


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_change_of_that_kind(kernel_61: Kernel, path: Path, tmp_path: Path) -> None:
    with needed("no source"):
        tree = find_source(None, SourceTarget(kernel_61.release, banner=kernel_61.banner))
    nothing = NOTHING.search(path.read_text())
    if nothing is None:
        assert make_and_try(read_fix(path), kernel_61, tmp_path).failure == ""
        return
    made = patch([path], tree, Objects(kernel_61), ModulePlan("integration"), AS_USUAL)
    assert made.module is None and made.functions == ()
    assert [row.code for diff in made.diffs for row in diff.judged.warnings] == nothing[1].split()

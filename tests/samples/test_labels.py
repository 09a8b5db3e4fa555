"""`goto *table`: the new function must never jump into the old body, whether its labels moved or not.

That labels stay where they are while the code changes is the treacherous case
(the target sample's next version, see test_patched); here they all move.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary import ObjectFile, read_object
from builder.binary.kernel import Kernel
from builder.compare import View
from builder.image.trial import PHASES, TrialPlan, trial
from samples.demo import PROC
from samples.objects import TARGET_NAME, TargetObjects, target_objects
from tests.samples.test_patched import build_target, facts, said

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
VARIANTS = ("next-version", "moved-labels")


def label_offsets(obj: ObjectFile) -> list[int]:
    """Offsets inside run() that its table of labels holds."""
    view = View(obj)
    function = view.by_name["run"]
    targets = [view.target(r) for a in view.data if a.name.startswith("labels.") for r in view.relocations(a)]
    return [t.offset for t in targets if t.atom is function]


@pytest.fixture(scope="module", params=VARIANTS)
def made(request: pytest.FixtureRequest, release_61: str) -> tuple[str, TargetObjects]:
    return request.param, target_objects(release_61, version=request.param)


def test_the_variants_are_what_they_are_for(made: tuple[str, TargetObjects]) -> None:
    version, objects = made
    old, new = label_offsets(read_object(objects.old)), label_offsets(read_object(objects.new))
    assert len(old) == len(new) == 4
    assert (old == new) == (version == "next-version")


def test_the_table_travels_with_its_function(made: tuple[str, TargetObjects], tmp_path: Path) -> None:
    _, objects = made
    built = build_target(objects, tmp_path / "labels.ko")
    assert built.status == 0, built.stderr
    assert [b for b in built.document["bindings"] if b["symbol"].startswith("labels")] == []
    module = read_object(built.module)
    text = module.by_name[".text"]
    inside = [
        r
        for section in module.sections
        if section.name == ".rodata"
        for r in module.relocations_of(section.index)
        if module.symbols[r.symbol].shndx == text.index
    ]
    assert len(inside) >= 4


@pytest.mark.guest
def test_the_new_function_runs_to_its_own_end(made: tuple[str, TargetObjects], tmp_path: Path) -> None:
    version, objects = made
    built = build_target(objects, tmp_path / "labels.ko")
    plan = TrialPlan(commands=(f"cat {PROC}",), objects={TARGET_NAME: objects.module})
    (shown,) = said(trial(built.module, Kernel.open(fetch_kernel(objects.release).image), plan))
    # seed 12: add, twice, twice, less, which gives (12 + 1) * 4 - 1, then (12 + 2) * 4 - 1 or (12 * 3 + 1) * 4 - 1
    fresh = {"next-version": "55", "moved-labels": "147"}[version]
    assert [facts(shown[phase])["run"] for phase in PHASES] == ["51", fresh, "51"]

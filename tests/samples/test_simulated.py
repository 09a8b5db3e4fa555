"""The samples in the simulated kernel: old code, new code, old code, with one set of variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.image.derive import derive_state
from builder.load.boot import boot
from builder.pipeline import ModulePlan, build, diff
from samples.objects import target_objects, vmlinux_objects
from samples.simulated import TARGET_CALLS, VERSION_CALLS, walk
from tests.samples.test_patched import build_target
from tests.support.kernels import differences, opened, snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
ALL = ("before", "with", "after")


def test_the_module(release: str, tmp_path: Path) -> None:
    made, kernel = target_objects(release), opened(release)
    simulated = boot(kernel, derive_state(kernel, "max"))
    built = build_target(made, tmp_path / "fix.ko")
    assert built.status == 0, built.document
    before = snapshot(simulated)
    answers = walk(simulated, built.module, TARGET_CALLS, [made.module])
    rows = {name: tuple(row[phase] for phase in ALL) for name, row in answers.items()}
    assert rows["rise()"] == ("1", "11", "12"), "one variable, whichever version counts"
    assert rows["fall()"] == ("999", "989", "988")
    assert rows["weigh(4, 12)"] == ("76", "6", "76")
    assert rows['run("\\1\\2\\2\\3", 12)'] == ("51", "55", "51")
    assert rows["peek((void *)-4096)"] == ("-1", "-14", "-1")
    texts = rows["bespoke_target:show(file, NULL)"]
    assert ["old, quiet" in text for text in texts] == [True, False, True]
    assert "new, very quiet" in texts[1] and "1 of the new version" in texts[1]
    visits = [int(text.partition("visits")[2].split()[0]) for text in texts]
    assert visits == sorted(visits) and len(set(visits)) == 3, "counted on through all three"
    changed = differences(before, snapshot(simulated))
    assert all(name.startswith(("vmlinux", "percpu")) for name in changed)
    assert [n for n in changed if "w" not in next(r for r in simulated.memory if r.name == n).protection] == []


def test_the_kernel_itself(release_61: str) -> None:
    pair = vmlinux_objects(release_61)
    kernel: Kernel = opened(release_61)
    simulated = boot(kernel, derive_state(kernel, "max"))
    simulated.memory.write_u32(kernel.symbol("nr_threads").address, 50)
    module = build([diff(pair.old, pair.new)], Objects(kernel), ModulePlan("version"))
    assert module is not None
    ((row),) = walk(simulated, module.content, VERSION_CALLS).values()
    line = "This line was added while 50 threads kept running.\n"
    assert row["with"] == row["before"] + line
    assert row["after"] == row["before"] == kernel.banner.rstrip("\n") + "\n"

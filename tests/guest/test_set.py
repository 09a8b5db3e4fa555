"""An out-of-tree module, patched from its source: values put into running variables, a new file, and all taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.acquire.compile import AS_USUAL
from builder.acquire.outside import ModuleSource
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit import Module
from builder.errors import Allowed
from builder.image.guest import Guest
from builder.pipeline import ModulePlan, patch
from tests.support.modules import compiled_modules

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]

SOURCE = Path(__file__).parent / "outside"
SHOW = "cd /sys/module/outside/parameters; echo $(cat bound limit shown)"


@pytest.fixture(scope="module")
def module(kernel_61: Kernel) -> Path:
    sources = [path for path in SOURCE.iterdir() if path.suffix == ".c"]
    return compiled_modules("outside", kernel_61.release, sources, (SOURCE / "Makefile").read_text())["outside"]


@pytest.fixture(scope="module")
def fix(kernel_61: Kernel, module: Path) -> Module:
    plan = ModulePlan("fix", allowed=Allowed.parse([], ["bound", "limit", "shape"]))
    source = ModuleSource.of(SOURCE, ["outside"], kernel_61.release)
    made = patch([SOURCE / "fix.patch"], source, Objects(kernel_61, {"outside": module}), plan, AS_USUAL)
    assert made.module is not None and made.functions == ("outside_other",)
    assert [pair.path for pair in made.objects.pairs] == ["main.o", "other.o", "fresh.o"]
    return made.module


@pytest.fixture
def own(kernel_61: Kernel, module: Path, fix: Module) -> Iterator[Guest]:
    """A guest with the module loaded, and the livepatch beside it."""
    with Guest(kernel_61) as guest:
        guest.put("/outside.ko", module.read_bytes())
        guest.put("/fix.ko", fix.content)
        guest.check("insmod /outside.ko")
        yield guest


def unload(guest: Guest) -> None:
    guest.check("cd /sys/kernel/livepatch; echo 0 > fix/enabled; while [ -d fix ]; do sleep 0.1; done; rmmod fix")


def test_values_are_put_there_only_where_the_old_ones_stand_and_taken_back(own: Guest) -> None:
    old, new = "40 4 1 2 7 0 3 9\n", "90 9 2 2 8 5 3 108\n"
    parameters = "/sys/module/outside/parameters"
    assert own.check(SHOW) == old
    # Another value of one that is set: the load is refused, and the others are as they were.
    for name, other, shown in (("bound", 41, "41 4 1 2 7 0 3 9\n"), ("limit", 6, "40 6 1 2 7 0 3 9\n")):
        before = own.check(f"cat {parameters}/{name}").strip()
        own.check(f"echo {other} > {parameters}/{name}")
        refused = own.run("insmod /fix.ko")
        assert not refused.ok and "busy" in refused.output
        assert own.check(SHOW) == shown
        own.check(f"echo {before} > {parameters}/{name}")
    own.check("insmod /fix.ko; sleep 3")
    assert own.check(SHOW) == new
    # What somebody sets meanwhile stays; all else is as before.
    own.check(f"echo 11 > {parameters}/limit")
    unload(own)
    assert own.check(SHOW) == "40 11 1 2 7 0 3 9\n"
    # A module that comes after the livepatch has its initial values, and gets the new ones.
    own.check("rmmod outside; insmod /fix.ko; insmod /outside.ko")
    assert own.check(SHOW) == new
    unload(own)
    assert own.check(SHOW) == old
    assert "BUG" not in own.check("dmesg") and "WARNING" not in own.check("dmesg")

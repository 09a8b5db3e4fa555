"""A tracepoint of a module in a function that is patched fires from the new version, and is turned on and off there."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from builder.acquire.compile import AS_USUAL
from builder.acquire.sources import SourceTarget, find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.image.guest import Guest
from builder.image.machine import TRACING
from builder.pipeline import ModulePlan, patch
from tests.conftest import lacks, needed

pytestmark = [pytest.mark.kernel, pytest.mark.guest, pytest.mark.long]

MIB: Final = 1 << 20
SYSTEMS: Final[dict[str, tuple[int, Sequence[str], str]]] = {
    "ext4": (8, ("/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4"), "ext4_sync_file_enter"),
    "xfs": (24, ("/usr/sbin/mkfs.xfs", "-q", "-f", "--unsupported"), "xfs_file_fsync"),
}
"""File system -> MiB of its image, what makes it, the tracepoint of the patched function."""
TOGGLES: Final = 100


def image(name: str, folder: Path) -> bytes:
    """An empty file system."""
    size, make, _ = SYSTEMS[name]
    if shutil.which(make[0]) is None:
        lacks(f"not installed: {make[0]} (make test)")
    path = folder / "image"
    with path.open("wb") as file:
        file.truncate(size * MIB)
    subprocess.run([*make, path], check=True, capture_output=True)
    return path.read_bytes()


def livepatch(name: str, kernel: Kernel) -> bytes:
    with needed("no source"):
        tree = find_source(None, SourceTarget(kernel.release, banner=kernel.banner))
    path = Path(__file__).with_name("tracepoints") / f"{name}.patch"
    made = patch([path], tree, Objects(kernel), ModulePlan("traced"), AS_USUAL)
    assert made.module is not None
    assert made.module.manifest.objects == (name,) and made.module.manifest.warnings == ()
    return made.module.content


class Mounted:
    """A file on the file system, and what is seen when it is synced."""

    def __init__(self, guest: Guest, name: str, content: bytes) -> None:
        self.guest = guest
        _, _, event = SYSTEMS[name]
        self.event = f"{TRACING}/events/{name}/{event}/enable"
        self.name = event
        guest.modprobe("loop", "crc32c_generic", name)
        guest.put("/run/image.gz", gzip.compress(content))
        guest.check("cd /run && gzip -d image.gz && mkdir -p /m")
        guest.check(f"mount -t {name} -o loop /run/image /m", timeout=60)

    def sync(self) -> tuple[int, int]:
        """How often the event fires, and the new version says so, for two files that are synced."""
        done = "for n in 1 2; do dd if=/dev/zero of=/m/f bs=512 count=1 conv=fsync 2>/dev/null; done"
        count = f"grep -c ' {self.name}: ' {TRACING}/trace; dmesg | grep -c 'a file is synced'"
        said = self.guest.check(f"echo > {TRACING}/trace; dmesg -c > /dev/null; {done}; {count}; true").split()
        return int(said[0]), int(said[1])

    def turn(self, on: bool) -> None:
        self.guest.check(f"echo {int(on)} > {self.event}")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_tracepoint_fires_from_the_new_version(kernel_61: Kernel, name: str, tmp_path: Path) -> None:
    content, module = image(name, tmp_path), livepatch(name, kernel_61)
    with Guest(kernel_61) as guest:
        mounted = Mounted(guest, name, content)
        mark = guest.mark()
        mounted.turn(True)
        assert mounted.sync() == (2, 0)
        assert guest.insmod(module, "traced").ok
        guest.wait_transition("traced")
        assert mounted.sync() == (2, 2)  # one that was on before
        mounted.turn(False)
        assert mounted.sync() == (0, 2)
        mounted.turn(True)
        assert mounted.sync() == (2, 2)
        load = "(while [ ! -e /run/over ]; do dd if=/dev/zero of=/m/g bs=512 count=1 conv=fsync 2>/dev/null; done &)"
        turn = f"for n in $(seq {TOGGLES // 2}); do echo 0 > {mounted.event}; echo 1 > {mounted.event}; done"
        guest.check(f"{load}; {turn}; touch /run/over; sleep 1", timeout=300)
        mounted.turn(False)
        guest.disable_livepatch("traced")
        assert guest.rmmod("traced").ok
        assert mounted.sync() == (0, 0)
        mounted.turn(True)
        assert mounted.sync() == (2, 0)
        assert guest.warnings(mark) == ()

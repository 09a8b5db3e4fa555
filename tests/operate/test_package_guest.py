"""A package on a machine: the files of this one in a guest, dpkg there, and what runs after each step.

What stands for an installed Bespoke is a script that runs this checkout by the same Python. No systemd runs there: what
it would do at boot is done as the unit says it.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.compose.owner import Objects
from builder.image.guest import Guest, MachineConfig, Share
from builder.packages import PackagedModule, PackagePlan, package
from builder.pipeline import ModulePlan, build, diff
from samples.objects import vmlinux_objects
from tests.conftest import ROOT, need
from tests.support.kernels import opened

pytestmark = [pytest.mark.kernel, pytest.mark.guest, pytest.mark.long, pytest.mark.timeout(1500)]

PLAN = PackagePlan("livepatch-version", "1.2", "A Person <a.person@example.com>")
LOWER, PLACE = "/lower", "/machine"
UNIT = f"/usr/lib/systemd/system/{PLAN.name}.service"
WANTED = f"/etc/systemd/system/multi-user.target.wants/{PLAN.name}.service"
MOUNTS = f"""\
mkdir -p {PLACE} /over && mount -t tmpfs over /over && mkdir /over/upper /over/work
mount -t overlay overlay -o lowerdir={LOWER},upperdir=/over/upper,workdir=/over/work {PLACE} || exit 1
cd {PLACE}
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t devtmpfs devtmpfs dev
mount -t tracefs tracefs sys/kernel/tracing; mount -t debugfs debugfs sys/kernel/debug
mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp
"""
BESPOKE = f"""\
#!/bin/sh
cd {shlex.quote(str(ROOT))}
export PYTHONDONTWRITEBYTECODE=1 HOME=/run BESPOKE_CACHE=/run/cache
exec {shlex.quote(sys.executable)} -m builder "$@"
"""


class Machine:
    """The files of this machine in a guest, to be written to there."""

    def __init__(self, guest: Guest, deb: bytes) -> None:
        self.guest = guest
        guest.modprobe("overlay")
        guest.check(MOUNTS)
        guest.put(f"{PLACE}/srv/fix.deb", deb)
        guest.put(f"{PLACE}/usr/local/bin/bespoke", BESPOKE.encode())
        guest.check(f"chmod 755 {PLACE}/usr/local/bin/bespoke")

    def run(self, command: str) -> str:
        """A command on the machine, which must succeed."""
        command = f"export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; {command}"
        return self.guest.check(f"chroot {PLACE} /bin/sh -c {shlex.quote(command)}", timeout=300)

    def has(self, path: str) -> bool:
        return self.guest.run(f"ls -d {PLACE}{path}").ok

    def boot(self) -> bool:
        """What systemd does with the unit when it is wanted: whether its condition held."""
        assert self.guest.run(f"test -h {PLACE}{WANTED}").ok, "the unit is not enabled"
        unit = dict(re.findall(r"^(\w+)=(.*)$", self.run(f"cat {UNIT}"), re.MULTILINE))
        if not self.has(unit["ConditionPathExists"].replace("%v", self.guest.check("uname -r").strip())):
            return False
        self.run(unit["ExecStart"])
        return True

    def is_patched(self) -> bool:
        return self.guest.livepatch_state("fix") is not None


@pytest.fixture
def machine(release_61: str, release_612: str, tmp_path: Path) -> Iterator[Machine]:
    """With a package that has a livepatch for its kernel, and one for another."""
    need("dpkg-deb", "deb-systemd-helper")
    modules = []
    for release in (release_61, release_612):
        pair = vmlinux_objects(release)
        module = build([diff(pair.old, pair.new)], Objects(opened(release)), ModulePlan("fix"))
        assert module is not None
        (tmp_path / f"{release}.ko").write_bytes(module.content)
        modules.append(PackagedModule.read(tmp_path / f"{release}.ko"))
    deb = package(modules, PLAN, "deb", tmp_path).read_bytes()
    with Guest(opened(release_61), MachineConfig(memory_mb=2048), shares=[Share(Path("/"), LOWER)]) as guest:
        yield Machine(guest, deb)


def test_a_package_from_its_installation_to_its_removal(machine: Machine, release_61: str) -> None:
    """Installed without systemd, as into an image, nothing is loaded; from then on each boot loads it."""
    folder, before = f"/usr/lib/{PLAN.name}", machine.run("cat /proc/version")
    machine.run("dpkg -i /srv/fix.deb")
    assert not machine.is_patched()
    assert machine.boot() and machine.is_patched()
    assert machine.run("cat /proc/version") != before
    machine.run(f"dpkg -r {PLAN.name}")
    assert not machine.is_patched() and machine.run("cat /proc/version") == before
    assert not machine.has(folder)
    machine.run(f"dpkg --purge {PLAN.name}")
    assert not machine.has(WANTED)

    # For a kernel that was updated: the condition does not hold, and the script has nothing to load.
    machine.run("dpkg -i /srv/fix.deb")
    machine.run(f"mv {folder}/{release_61} {folder}/6.1.0-1-amd64")
    assert not machine.boot()
    machine.run(f"{folder}/livepatch load")
    assert not machine.is_patched()

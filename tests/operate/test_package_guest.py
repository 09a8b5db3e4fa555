"""A package on a machine: the files and systemd of this one in a guest, dpkg there, and what runs after each step.

What stands for an installed Bespoke is a script that runs this checkout by the same Python.
"""

from __future__ import annotations

import shlex
import sys
import time
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
MOUNTS = f"""\
mkdir -p {PLACE} /over && mount -t tmpfs over /over && mkdir /over/upper /over/work
mount -t overlay overlay -o lowerdir={LOWER},upperdir=/over/upper,workdir=/over/work {PLACE} || exit 1
cd {PLACE}
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t devtmpfs devtmpfs dev
mount -t tracefs tracefs sys/kernel/tracing; mount -t debugfs debugfs sys/kernel/debug
mount -t cgroup2 cgroup2 sys/fs/cgroup; mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp
# Nothing runs of what this machine has enabled.
rm -rf etc/systemd/system && mkdir -p etc/systemd/system
for unit in getty.target timers.target sockets.target dbus.service systemd-udevd.service systemd-udev-trigger.service \\
    systemd-logind.service systemd-user-sessions.service remote-fs.target; do
    ln -s /dev/null etc/systemd/system/$unit
done
"""
SYSTEMD = f"""\
exec unshare -p -f chroot {PLACE} /usr/bin/env -i container=guest PATH=/usr/sbin:/usr/bin \\
    /lib/systemd/systemd --unit=multi-user.target --show-status=0
"""
BESPOKE = f"""\
#!/bin/sh
cd {shlex.quote(str(ROOT))}
export PYTHONDONTWRITEBYTECODE=1 HOME=/run BESPOKE_CACHE=/run/cache
exec {shlex.quote(sys.executable)} -m builder "$@"
"""


class Machine:
    """The files of this machine in a guest, to be written to there; `boot` starts systemd, as its first process."""

    def __init__(self, guest: Guest, deb: bytes) -> None:
        self.guest = guest
        guest.modprobe("overlay")
        guest.check(MOUNTS)
        guest.put(f"{PLACE}/srv/fix.deb", deb)
        guest.put(f"{PLACE}/usr/local/bin/bespoke", BESPOKE.encode())
        guest.check(f"chmod 755 {PLACE}/usr/local/bin/bespoke")
        self._enter = ""

    def run(self, command: str, *, timeout: float = 300.0) -> str:
        """A command on the machine, which must succeed."""
        command = f"export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; {command}"
        return self.guest.check(f"{self._enter}chroot {PLACE} /bin/sh -c {shlex.quote(command)}", timeout=timeout)

    def boot(self) -> None:
        self.guest.put("/run/systemd.sh", SYSTEMD.encode())
        self.guest.check("setsid sh /run/systemd.sh </dev/null >/run/systemd.log 2>&1 &")
        deadline = time.monotonic() + 300
        while not (pid := self.guest.run("pidof systemd").output.split()):
            assert time.monotonic() < deadline, self.guest.run("cat /run/systemd.log").output
            time.sleep(1)
        self._enter = f"nsenter -t {pid[-1]} -p -m "
        while "running" not in (
            state := self.guest.run(f"{self._enter}chroot {PLACE} systemctl is-system-running").output
        ):
            if "degraded" in state:
                break
            assert time.monotonic() < deadline, state + self.guest.run("cat /run/systemd.log").output
            time.sleep(2)

    def is_patched(self) -> bool:
        return self.guest.livepatch_state("fix") is not None

    def unit(self) -> str:
        """The state of the package's unit."""
        command = f"{self._enter}chroot {PLACE} systemctl is-active {PLAN.name}"
        return self.guest.run(command).output.strip()


@pytest.fixture
def machine(release_61: str, release_612: str, tmp_path: Path) -> Iterator[Machine]:
    """With a package that has a livepatch for its kernel, and one for another."""
    need("dpkg-deb", "systemctl", "deb-systemd-helper")
    modules = []
    for release in (release_61, release_612):
        pair = vmlinux_objects(release)
        module = build([diff(pair.old, pair.new)], Objects(opened(release)), ModulePlan("fix"))
        assert module is not None
        (tmp_path / f"{release}.ko").write_bytes(module.content)
        modules.append(PackagedModule.read(tmp_path / f"{release}.ko"))
    deb = package(modules, PLAN, "deb", tmp_path).read_bytes()
    config = MachineConfig(memory_mb=2048)
    with Guest(opened(release_61), config, shares=[Share(Path("/"), LOWER)]) as guest:
        yield Machine(guest, deb)


def test_a_package_from_its_installation_to_its_removal(machine: Machine, release_61: str) -> None:
    """Installed without systemd, as into an image: nothing is loaded. From then on each boot loads it."""
    before = machine.run("cat /proc/version")
    machine.run("dpkg -i /srv/fix.deb")
    assert not machine.is_patched()
    machine.boot()
    assert machine.unit() == "active" and machine.is_patched()
    assert machine.run("cat /proc/version") != before
    assert f"/{release_61}/fix.ko" in machine.run(
        f"journalctl -u {PLAN.name}; ls /usr/lib/{PLAN.name}/{release_61}/fix.ko"
    )

    machine.run(f"dpkg -r {PLAN.name}")
    assert not machine.is_patched() and machine.run("cat /proc/version") == before
    machine.run("dpkg -i /srv/fix.deb")
    assert machine.is_patched() and machine.unit() == "active", "installing loads, where systemd runs"
    machine.run(f"systemctl stop {PLAN.name}")
    assert not machine.is_patched()
    machine.run(f"dpkg --purge {PLAN.name}")
    assert machine.guest.run(f"ls {PLACE}/usr/lib/{PLAN.name}").status != 0


def test_on_another_kernel_nothing_is_loaded(machine: Machine, release_61: str) -> None:
    """The package's folder for this kernel is gone, as for a kernel that was updated: no failure, and no livepatch."""
    machine.run("dpkg -i /srv/fix.deb")
    machine.run(f"mv /usr/lib/{PLAN.name}/{release_61} /usr/lib/{PLAN.name}/6.1.0-1-amd64")
    machine.boot()
    assert machine.unit() == "inactive" and not machine.is_patched()
    assert machine.run(f"systemctl show -P ConditionResult {PLAN.name}").strip() == "no"

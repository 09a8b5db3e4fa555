"""Every way to fail ends in a message, soon, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.errors import GuestError, ToolError
from builder.image.guest import BootableKernel, Guest, MachineConfig, channel, initramfs

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Image:
    """Some file in the place of a kernel."""

    vmlinux: Path
    release: str = "0.0"
    modules_root: Path | None = None

    @property
    def path(self) -> Path:
        return self.vmlinux

    def find_module(self, name: str) -> Path | None:
        return None


def children() -> set[int]:
    """The QEMU processes that this interpreter has started and that still run."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[1]) == os.getpid() and "qemu" in (place / "comm").read_text():
                found.add(int(place.name))
        except OSError:
            continue
    return found


def gone(pid: int, seconds: float = 10.0) -> bool:
    """True as soon as there is no process `pid`, or only its remains."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def fails_to_boot(
    kernel: BootableKernel, *, cpu: str = "max", boot_timeout: float = 120.0, files: Mapping[str, bytes] | None = None
) -> GuestError:
    before = children()
    guest = Guest(kernel, MachineConfig(cpu=cpu), files=files, boot_timeout=boot_timeout)
    with pytest.raises(GuestError) as caught, guest:
        pass
    assert children() == before
    return caught.value


def test_a_panic_is_told_with_its_reason_and_the_log(kernel_61: Kernel) -> None:
    before = children()
    with Guest(kernel_61) as guest:
        assert len(children() - before) == 1
        with pytest.raises(GuestError, match="Kernel panic - not syncing: sysrq triggered crash") as caught:
            guest.run("echo c > /proc/sysrq-trigger")
        assert "sysrq_handle_crash" in caught.value.log
        with pytest.raises(GuestError, match="ended"):
            guest.run("true")
        assert "sysrq triggered crash" in guest.dmesg()
        assert any("Kernel panic" in warning for warning in guest.warnings())
    assert children() == before
    assert "sysrq triggered crash" in guest.dmesg()


def test_an_oops_ends_the_guest_unless_it_may_go_on(kernel_61: Kernel, built_61: Mapping[str, Path]) -> None:
    oops = "echo o > /sys/module/guest_target/parameters/value"
    for panic in (True, False):
        with Guest(kernel_61, MachineConfig(panic_on_oops=panic)) as guest:
            assert guest.insmod(built_61["guest_target"]).ok
            if panic:
                with pytest.raises(GuestError, match="NULL pointer dereference"):
                    guest.run(oops)
            else:
                assert not guest.run(oops).ok
                assert "NULL pointer dereference" in guest.warnings()[0]
                assert guest.run("echo alive").output == "alive\n"


def test_a_guest_that_falls_silent(kernel_61: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "GRACE", 1.0)
    with Guest(kernel_61) as guest:
        os.kill(guest.pid, signal.SIGSTOP)
        with pytest.raises(GuestError, match=r"no longer answers \(waited 2 s\): true"):
            guest.run("true", timeout=1)
        with pytest.raises(GuestError, match="went silent"):
            guest.run("true")
        assert "Linux version" in guest.dmesg()
        pid = guest.pid
    assert gone(pid)


def test_an_unknown_cpu(kernel_61: Kernel) -> None:
    error = fails_to_boot(kernel_61, cpu="Abacus")
    assert "unable to find CPU model 'Abacus'" in str(error) and "\n" not in str(error)
    assert "Abacus" in error.log


def test_a_cpu_that_the_kernel_cannot_run_on(kernel_61: Kernel) -> None:
    fails_to_boot(kernel_61, cpu="qemu32", boot_timeout=10.0)


def test_a_kernel_that_is_none(tmp_path: Path) -> None:
    image = tmp_path / "vmlinux"
    image.write_text("not a kernel\n" * 1000)
    assert "the guest ended: qemu" in str(fails_to_boot(Image(image), boot_timeout=20.0))


def test_a_kernel_that_never_comes_up(kernel_61: Kernel, tmp_path: Path) -> None:
    image = bytearray(kernel_61.vmlinux.read_bytes())
    text = kernel_61.sections[".text"]
    image[text.offset : text.offset + text.size] = b"\xeb\xfe" * (text.size // 2)
    (tmp_path / "vmlinux").write_bytes(image)
    started = time.monotonic()
    error = fails_to_boot(Image(tmp_path / "vmlinux"), boot_timeout=4.0)
    assert str(error) == "the guest did not come up within 4 s: the console is empty"
    assert time.monotonic() - started < 30


def test_a_kernel_without_our_agent(kernel_61: Kernel) -> None:
    """The reason is the kernel's own last word."""
    error = fails_to_boot(kernel_61, files={"/init": b"#!/bin/absent\n"}, boot_timeout=60.0)
    assert "Kernel panic" in str(error) and "the guest ended" in str(error)


def test_another_kernel_than_was_said(kernel_61: Kernel) -> None:
    assert "not 0.0" in str(fails_to_boot(Image(kernel_61.vmlinux)))


def test_missing_programs_are_named_with_their_package(
    kernel_61: Kernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="qemu-system-x86"), Guest(kernel_61):
        pass
    monkeypatch.setattr(initramfs, "BUSYBOX_PLACES", ())
    with pytest.raises(ToolError, match="busybox-static"), Guest(kernel_61):
        pass


def test_an_error_of_the_caller_ends_the_guest(kernel_61: Kernel) -> None:
    with pytest.raises(KeyboardInterrupt), Guest(kernel_61) as guest:
        pid = guest.pid
        raise KeyboardInterrupt
    assert gone(pid)


HOLDER = """
import sys, time
from pathlib import Path
from builder.binary.kernel import Kernel
from builder.image.guest import Guest
guest = Guest(Kernel.open(sys.argv[1]))
if sys.argv[2] == "with":
    with guest:
        print(guest.pid, flush=True)
        guest.run("sleep 1000", timeout=1000)
guest.__enter__()
print(guest.pid, flush=True)
if sys.argv[2] == "wait":
    time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("how", "end"),
    [("wait", signal.SIGKILL), ("wait", signal.SIGTERM), ("with", signal.SIGINT), ("exit", None)],
)
def test_no_guest_outlives_its_program(kernel_61: Kernel, how: str, end: signal.Signals | None) -> None:
    command = [sys.executable, "-c", HOLDER, str(kernel_61.path), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline() or 0)
        assert pid, "the program failed, as it says on its standard error"
        if end is not None:
            assert not gone(pid, 0.2)
            holder.send_signal(end)
        holder.wait(30)
    assert gone(pid)

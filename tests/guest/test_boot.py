"""What can be chosen of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.errors import InputError, UsageError
from builder.image.guest import Guest, MachineConfig, Share

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]


def text_address(guest: Guest) -> int:
    return int(guest.check("grep -w _text /proc/kallsyms").split()[0], 16)


@pytest.mark.long_for(release="6.12")
def test_addresses_are_those_of_the_image_unless_kaslr_is_wanted(guest: Guest, kernel: Kernel) -> None:
    assert text_address(guest) == kernel.symbol("_text").address
    with Guest(kernel, MachineConfig(kaslr=True)) as moved:
        assert "nokaslr" not in moved.check("cat /proc/cmdline")
        assert text_address(moved) != kernel.symbol("_text").address
        data = bytes(range(256)) * 400
        moved.put("/tmp/data", data)
        assert moved.get("/tmp/data") == data


def test_kaslr_needs_a_bzimage(kernel_61: Kernel) -> None:
    @dataclass(frozen=True)
    class Unpacked:
        path: Path = kernel_61.vmlinux
        vmlinux: Path = kernel_61.vmlinux
        release: str = kernel_61.release
        modules_root: Path | None = None

        def find_module(self, name: str) -> Path | None:
            return None

    with pytest.raises(InputError, match="bzImage"), Guest(Unpacked(), MachineConfig(kaslr=True)):
        pass


def test_cpus_memory_command_line_and_files(kernel_61: Kernel, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho run with $1\n")
    files: dict[str, bytes | Path] = {"/opt/tool": tmp_path / "tool", "etc/motd": b"hello\n"}
    with Guest(kernel_61, MachineConfig(smp=2, memory_mb=768, cmdline="bespoke.word=1"), files=files) as guest:
        assert guest.check("nproc") == "2\n"
        assert 600_000 < int(guest.check("sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0]) < 768 * 1024
        assert "bespoke.word=1" in guest.check("cat /proc/cmdline")
        assert guest.check("/opt/tool this; cat /etc/motd") == "run with this\nhello\n"


@pytest.mark.parametrize(
    ("cpu", "thunk"),
    [("qemu64", False), pytest.param("Nehalem", True, marks=pytest.mark.long), ("Skylake-Server", True)],
)
def test_the_cpu_model_is_what_the_kernel_sees(kernel_61: Kernel, cpu: str, thunk: bool) -> None:
    """The models differ in what the kernel patches: Intel's before IBRS take retpolines, AMD's too."""
    with Guest(kernel_61, MachineConfig(cpu=cpu)) as guest:
        vendor = guest.check("sed -n 's/^vendor_id.*: //p' /proc/cpuinfo").strip()
        assert vendor == ("GenuineIntel" if thunk else "AuthenticAMD")
        assert guest.check("cat /sys/devices/system/cpu/vulnerabilities/spectre_v2")


@pytest.mark.long_for(release="6.12")
def test_shared_directories(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data").write_bytes(bytes(3_000_000))
    (tmp_path / "out").mkdir()
    shares = [Share(tmp_path / "in", "/mnt/in"), Share(tmp_path / "out", "/mnt/out", readonly=False)]
    with Guest(kernel, shares=shares) as guest:
        guest.check("cp /mnt/in/data /mnt/out/copy")
        assert not guest.run("touch /mnt/in/new").ok
    assert (tmp_path / "out" / "copy").read_bytes() == bytes(3_000_000)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["data"]


def test_programs_of_the_host_run_from_its_shared_root(kernel_61: Kernel) -> None:
    with Guest(kernel_61, shares=[Share(Path("/"), "/host")]) as guest:
        assert guest.check("chroot /host /bin/sh -c 'echo $((6 * 7)); uname -r'", timeout=60) == (
            f"42\n{kernel_61.release}\n"
        )


def test_an_orderly_end(kernel_61: Kernel) -> None:
    with Guest(kernel_61) as guest:
        pid = guest.pid
        guest.poweroff()
        assert not guest.alive
        assert "Power down" in guest.dmesg()
    assert not Path(f"/proc/{pid}").exists()


def test_a_share_must_be_there(kernel_61: Kernel, tmp_path: Path) -> None:
    shares = [Share(tmp_path / "absent", "/x")]
    with pytest.raises(InputError, match="absent"), Guest(kernel_61, shares=shares):
        pass


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("accel", "magic", "magic"), ("memory_mb", 64, "512 MiB"), ("smp", 0, "at least one CPU")],
)
def test_a_machine_that_cannot_be(field: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MachineConfig(**{field: value})  # type: ignore[arg-type]

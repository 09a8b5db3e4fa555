"""A booted guest: its life, commands, files, and the kernel's log."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from builder.errors import GuestError, InputError, UsageError
from builder.image.guest import initramfs
from builder.image.guest.channel import (
    COMMAND_START,
    DATA_SIZE,
    DATA_START,
    OUTPUT_SIZE,
    OUTPUT_START,
    PAGE,
    WINDOW,
    Answer,
    Channel,
    brief,
)
from builder.image.guest.log import KernelLog
from builder.image.guest.modules import BootableKernel, ModuleTree
from builder.image.guest.qemu import LOW_MEMORY_MB, MIB, MachineConfig, QemuProcess
from builder.templates import render

REQUESTS = "/run/requests"
"""Where the guest's /sbin/modprobe leaves the names that the kernel calls it with."""
BY_BYTES = "iflag=skip_bytes,count_bytes,fullblock status=none"


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the host in the guest, by 9p; needs the kernel's modules."""

    path: Path
    mountpoint: str
    readonly: bool = True


class Session:
    """What a guest can do whatever its kernel is; `Guest` adds modules and livepatches."""

    def __init__(
        self,
        kernel: BootableKernel,
        config: MachineConfig | None = None,
        *,
        files: Mapping[str, bytes | Path] | None = None,
        modules: Mapping[str, Path] | None = None,
        shares: Iterable[Share] = (),
        boot_timeout: float = 120.0,
    ) -> None:
        """`files`: by path in the guest. `modules`: the caller's own, by name, before the kernel's tree."""
        self.kernel = kernel
        self.config = config or MachineConfig()
        self.tree = ModuleTree(kernel, modules)
        self.boot_seconds = 0.0
        self._files = dict(files or {})
        self._shares = tuple(shares)
        self._boot_timeout = boot_timeout
        self._machine: QemuProcess | None = None
        self._channel: Channel | None = None

    # Life

    def __enter__(self) -> Self:
        script = render(
            "guest-init.sh.j2",
            command_page=COMMAND_START // PAGE,
            output_page=OUTPUT_START // PAGE,
            output_size=OUTPUT_SIZE,
            doorbell="ttyS1",
            requests=REQUESTS,
        )
        archive = initramfs.archive([*initramfs.base_nodes(script), *initramfs.user_nodes(self._files)])
        image = self.kernel.path if self.config.kaslr else self.kernel.vmlinux
        if not image.is_file():
            raise InputError("no such kernel image", where=image)
        if self.config.kaslr and image.read_bytes()[:4] == b"\x7fELF":
            raise InputError("only a bzImage can place itself (KASLR); this is a vmlinux", where=image)
        started = time.monotonic()
        self._machine = QemuProcess(image, archive, self.config, window=WINDOW, devices=self._devices())
        try:
            self._channel = Channel(self._machine)
            with self._explained():
                release = self._channel.greeting(self._boot_timeout)
            if release != self.kernel.release:
                raise GuestError(f"the guest runs {release}, not {self.kernel.release}", where=image)
            self.boot_seconds = time.monotonic() - started
        except BaseException:
            self._machine.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._machine is not None:
            self._machine.kill()

    @property
    def alive(self) -> bool:
        return self._machine is not None and self._machine.alive

    @property
    def pid(self) -> int:
        """Of the QEMU process."""
        return self._started().process.pid

    def poweroff(self, timeout: float = 30.0) -> None:
        """An orderly end; GuestError if it does not come to one."""
        machine = self._started()
        with self._explained():
            self._agent().send("sync; poweroff -f")
            if not machine.wait(timeout):
                raise GuestError(f"the guest did not power off within {timeout:g} s")
        if "reboot: Power down" not in machine.console():
            raise self._fail("the guest ended without powering off")

    # Commands and files

    def run(self, command: str, *, timeout: float = 30.0) -> Answer:
        """Run a shell command; its status is the caller's to judge.

        GuestError if it exceeds `timeout` seconds; it is ended then, and the guest can still be used.
        """
        status, output, seconds = self._request(command, timeout)
        return Answer(status, output.decode(errors="replace"), seconds)

    def check(self, command: str, *, timeout: float = 30.0) -> str:
        """The output of a command that must succeed, else GuestError with what it said."""
        answer = self.run(command, timeout=timeout)
        if not answer.ok:
            said = answer.output.strip().rpartition("\n")[2]
            raise self._fail(f"status {answer.status}: {brief(command)}" + (f": {said}" if said else ""))
        return answer.output

    def put(self, guest_path: str, data: bytes, *, timeout: float = 60.0) -> None:
        """Write a file, of any size, making its directory."""
        path = shlex.quote(guest_path)
        self.check(f'mkdir -p "$(dirname {path})" && : > {path}')
        for at in range(0, len(data), DATA_SIZE):
            piece = data[at : at + DATA_SIZE]
            self._agent().place(piece)
            source = f"if=/dev/mem skip={DATA_START} count={len(piece)}"
            self.check(f"dd bs=65536 {BY_BYTES} {source} >> {path}", timeout=timeout)

    def get(self, guest_path: str, *, offset: int = 0, length: int | None = None, timeout: float = 60.0) -> bytes:
        """`length` bytes of a file from `offset` on, or to its end; also of /proc/kcore and the like."""
        path, pieces, left = shlex.quote(guest_path), list[bytes](), length
        while left is None or left > 0:
            want = DATA_SIZE if left is None else min(left, DATA_SIZE)
            answer = self.check(
                f"dd bs=65536 {BY_BYTES} if={path} skip={offset} count={want} > /run/agent/piece && "
                f"stat -c %s /run/agent/piece && "
                f"dd if=/run/agent/piece of=/dev/mem bs=4096 seek={DATA_START // PAGE} status=none",
                timeout=timeout,
            )
            size = int(answer)
            pieces.append(self._agent().taken(size))
            offset += size
            if left is not None:
                left -= size
            if size < want:
                break
        return b"".join(pieces)

    def write_memory(self, address: int, data: bytes) -> None:
        """Write where nothing in the guest looks on: to its memory, by physical address, below 2 GiB.

        GuestError for an address beyond: what lies there depends on the machine.
        """
        if not 0 <= address <= min(self.config.memory_mb, LOW_MEMORY_MB) * MIB - len(data):
            raise GuestError(f"{len(data)} bytes at physical {address:#x} cannot be written")
        os.pwrite(self._started().memory.fileno(), data, address)

    # The log

    def console(self) -> str:
        """What the first serial port has printed, firmware and user space included; also after the end."""
        return self._started().console()

    def complaint(self) -> str:
        """What QEMU itself had to say, on its standard error."""
        return self._started().complaint()

    def log(self) -> KernelLog:
        """The kernel's log, with levels while the guest lives, else what reached the console."""
        with suppress(GuestError):
            if self.alive:
                return KernelLog.parse(self.check("dmesg -r -s 8388608"))
        return KernelLog.parse(self.console())

    def dmesg(self) -> str:
        return str(self.log())

    def mark(self) -> float:
        """A place in the log, for `warnings(since=...)`: the time stamp of its last line, in seconds."""
        return self.log().end

    def warnings(self, since: float = 0.0) -> tuple[str, ...]:
        """Warnings, oopses and errors; the taint messages of every livepatch are none."""
        return self.log().since(since).warnings()

    def tainted(self) -> int:
        return int(self.check("cat /proc/sys/kernel/tainted"))

    # Inside

    def _request(self, command: str, timeout: float) -> tuple[int, bytes, float]:
        with self._explained():
            return self._agent().request(command, timeout)

    def _started(self) -> QemuProcess:
        if self._machine is None:
            raise UsageError("the guest has not been started: use it as a context manager")
        return self._machine

    def _agent(self) -> Channel:
        self._started()
        assert self._channel is not None
        return self._channel

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Add what the console, or QEMU itself, has to say to an error of the channel."""
        try:
            yield
        except GuestError as error:
            raise self._fail(error.message) from None

    def _fail(self, message: str) -> GuestError:
        machine = self._started()
        log = KernelLog.parse(machine.console())
        reason = None
        if self._channel is not None and self._channel.dead:
            silence = None if log.records else "the console is empty"
            complaint = machine.complaint().partition("\n")[0]
            reason = log.first_failure() or complaint or silence
        return GuestError(f"{message}: {reason}" if reason else message, log=log.tail() or machine.complaint())

    def _devices(self) -> tuple[str, ...]:
        words: list[str] = []
        for number, share in enumerate(self._shares):
            if not share.path.is_dir():
                raise InputError("no such directory to share", where=share.path)
            if "," in str(share.path):
                raise InputError("a directory with a comma in its name cannot be shared", where=share.path)
            mode = ",readonly=on" if share.readonly else ""
            device = f"local,id=fs{number},path={share.path},security_model=none,multidevs=remap{mode}"
            words += ["-fsdev", device, "-device", f"virtio-9p-pci,fsdev=fs{number},mount_tag=share{number}"]
        return tuple(words)

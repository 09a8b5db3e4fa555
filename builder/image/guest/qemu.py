"""The machine: a QEMU process whose memory and console live in files of ours.

Nothing but descriptors is shared with QEMU: the guest's memory (so that bulk
data needs no driver in the guest), the console log (so that it can be read
also when the guest is dead), the initramfs and one end of a socket pair. So
there is no path to collide and nothing to clean up but the process.
"""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import socket
import subprocess
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from builder.errors import GuestError, ToolError, UsageError

PROGRAM = "qemu-system-x86_64"
MIB = 1 << 20
LEAST_MEMORY_MB = 512
"""The window lies at 256 MiB; the kernel, wherever it is put, and the initramfs need room beside it."""
LOW_MEMORY_MB = 2048
"""Of a q35 with more memory the first so many MiB lie where they are in the file, the others above 4 GiB."""
# `panic=-1` with `-no-reboot` ends QEMU at once; a busy host must not look like a lock-up of the guest.
BASE_CMDLINE = (
    "console=ttyS0 loglevel=7 rdinit=/init panic=-1 log_buf_len=4M nowatchdog "
    "rcupdate.rcu_cpu_stall_suppress=1 "
    # On a busy host emulated timer interrupts come late, and the kernel would panic for it (check_timer).
    "no_timer_check"
)

# With a thread for each CPU, emulation may go on with the translation of a breakpoint that another CPU has already
# replaced (seen with QEMU 7.2 and text_poke_bp on two CPUs): the guest then loops in the trap for ever.
_ACCELERATORS = {"tcg": "tcg,thread=single", "kvm": "kvm"}


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What can be chosen of the machine; `accel` is `tcg` (emulation, the default) or `kvm`."""

    cpu: str = "max"
    smp: int = 1
    memory_mb: int = 1024
    kaslr: bool = False
    accel: str = "tcg"
    cmdline: str = ""
    panic_on_oops: bool = True

    def __post_init__(self) -> None:
        if self.accel not in _ACCELERATORS:
            raise UsageError(f"unknown accelerator {self.accel!r}: tcg or kvm")
        if self.memory_mb < LEAST_MEMORY_MB:
            raise UsageError(f"a guest needs at least {LEAST_MEMORY_MB} MiB of memory, not {self.memory_mb}")
        if self.smp < 1:
            raise UsageError(f"a guest needs at least one CPU, not {self.smp}")

    def kernel_cmdline(self, window: str) -> str:
        """The kernel's command line; `window` reserves the shared window."""
        words = [BASE_CMDLINE, window]
        if not self.kaslr:
            words.append("nokaslr")
        if self.panic_on_oops:
            words.append("oops=panic")
        return " ".join(filter(None, [*words, self.cmdline]))


class QemuProcess:
    """One QEMU process, from start to end; use as a context manager.

    Raises ToolError where QEMU is absent and GuestError where it ends by
    itself. The process dies with the thread that started it (PR_SET_PDEATHSIG,
    which is about threads) and with this interpreter.
    """

    def __init__(
        self,
        kernel: Path,
        initramfs: bytes,
        config: MachineConfig,
        *,
        window: str,
        devices: tuple[str, ...] = (),
    ) -> None:
        """`window` is the word of the command line that reserves it, `devices` are words for QEMU."""
        self.config = config
        program, keeper = _tool(PROGRAM, "qemu-system-x86"), _tool("setpriv", "util-linux")
        self.memory = _memory("guest-memory", size=config.memory_mb * MIB)
        self._console = _memory("guest-console")
        self._stderr = _memory("guest-stderr")
        archive = _memory("guest-initramfs", content=initramfs)
        self.doorbell, theirs = socket.socketpair()
        size = config.memory_mb
        command = [
            *(keeper, "--pdeathsig", "KILL", "--", program),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35,memory-backend=ram", "-accel", _ACCELERATORS[config.accel], "-cpu", config.cpu),
            *("-smp", str(config.smp), "-m", f"{size}M"),
            *("-object", f"memory-backend-file,id=ram,mem-path={_path(self.memory)},size={size}M,share=on"),
            *("-chardev", f"file,id=console,path={_path(self._console)},append=on"),
            *("-chardev", f"socket,id=doorbell,fd={theirs.fileno()}"),
            *("-serial", "chardev:console", "-serial", "chardev:doorbell"),
            *("-kernel", str(kernel), "-initrd", _path(archive), "-append", config.kernel_cmdline(window)),
            *devices,
        ]
        files = (self.memory, self._console, archive)
        self._said: tuple[str, str] | None = None
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno(), *(file.fileno() for file in files)],
                start_new_session=True,  # an interrupt at the terminal is ours to handle
            )
        except OSError as error:
            self._close()
            raise ToolError(f"cannot be started: {error.strerror}", where=program) from None
        finally:
            archive.close()
            theirs.close()
        self._pidfd = os.pidfd_open(self.process.pid)
        _running.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def console(self) -> str:
        """All that the first serial port has printed so far, also after the end."""
        if self._said is not None:
            return self._said[0]
        return _text(self._console).replace("\r\n", "\n")

    def complaint(self) -> str:
        """What QEMU itself said, harmless remarks about CPU features left out."""
        if self._said is not None:
            return self._said[1]
        lines = _text(self._stderr).splitlines()
        return "\n".join(line for line in lines if "TCG doesn't support requested feature" not in line)

    def line(self, deadline: float) -> str:
        """The next line on the doorbell; GuestError if the machine ends or `deadline` (monotonic) passes."""
        got = bytearray()
        while not got.endswith(b"\n"):
            left = deadline - time.monotonic()
            line = self.doorbell.fileno()
            ready, _, _ = select.select([line, self._pidfd], [], [], max(left, 0))
            # The last words come before the end: the doorbell first.
            if line in ready and (data := self.doorbell.recv(1)):
                got += data
            elif ready:
                raise self._ended()
            else:
                raise TimeoutError
        return got.decode(errors="replace").strip()

    def ring(self, line: str) -> None:
        """One line into the second serial port."""
        try:
            self.doorbell.sendall(line.encode() + b"\n")
        except OSError:
            raise self._ended() from None

    def _ended(self) -> GuestError:
        # The line breaks a moment before the process is gone; what it says last is wanted too.
        self.wait(5.0)
        return GuestError("the guest ended")

    def wait(self, timeout: float) -> bool:
        """True once the process has ended, False if it has not within `timeout` seconds."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End the process, whatever it is doing; the console stays readable. May be called again."""
        if self in _running:
            _running.discard(self)
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            os.close(self._pidfd)
            self._close()

    def _close(self) -> None:
        self._said = self.console(), self.complaint()
        self.doorbell.close()
        for file in (self.memory, self._console, self._stderr):
            file.close()


_running: weakref.WeakSet[QemuProcess] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for machine in list(_running):
        machine.kill()


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ToolError(f"{name} is not installed (Debian package {package})")
    return found


def _path(file: IO[bytes]) -> str:
    return f"/proc/self/fd/{file.fileno()}"


def _text(file: IO[bytes]) -> str:
    """All of a file that another process appends to."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def _memory(name: str, *, size: int = 0, content: bytes = b"") -> IO[bytes]:
    """An anonymous file in memory, gone with its last descriptor; pages exist only once touched."""
    file = os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC), "r+b", buffering=0)
    if size:
        file.truncate(size)
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
    return file

"""Commands and data: a window of the guest's memory, and a serial line as doorbell.

The window is memory that the kernel was told to leave alone (`memmap=SIZE$START`,
`Documentation/admin-guide/kernel-parameters.txt`). The guest reaches it through
/dev/mem, which CONFIG_STRICT_DEVMEM allows for what is not System RAM
(`arch/x86/mm/init.c`, devmem_is_allowed) as long as it lies below the end of
memory (`arch/x86/mm/mmap.c`, valid_phys_addr_range); the host through the file
that backs the memory. So no driver is needed in the guest, and 16 MiB take a fifth of a second.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from builder.errors import GuestError
from builder.image.guest.qemu import MIB, QemuProcess

PAGE = 4096
WINDOW_START = 256 * MIB
COMMAND_SIZE = 1 * MIB
OUTPUT_SIZE = 16 * MIB
DATA_SIZE = 16 * MIB
COMMAND_START = WINDOW_START
OUTPUT_START = COMMAND_START + COMMAND_SIZE
DATA_START = OUTPUT_START + OUTPUT_SIZE
WINDOW = f"memmap={(COMMAND_SIZE + OUTPUT_SIZE + DATA_SIZE) // MIB}M${WINDOW_START // MIB}M"
GRACE = 10.0
"""Seconds beyond a command's own limit after which a guest that says nothing counts as dead."""
LATE = "late"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command in the guest left: exit status, standard output and error together, seconds taken."""

    status: int
    output: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == 0


class Channel:
    """Strictly one request after the other; errors are GuestError without the log, which the session adds."""

    def __init__(self, machine: QemuProcess) -> None:
        self._machine = machine
        self._memory = machine.memory.fileno()
        self._last = 0
        self.dead = False
        """Set once the guest has ended or gone silent: nothing is asked of it any more."""

    def greeting(self, timeout: float) -> str:
        """Wait until the agent is up; the kernel release that it names."""
        deadline, line = time.monotonic() + timeout, ""
        while not line.startswith("ready "):
            line = self._line(deadline, f"did not come up within {timeout:g} s")
        return line.removeprefix("ready ")

    def request(self, script: str, timeout: float) -> tuple[int, bytes, float]:
        """Run a shell script; (status, output, seconds). The guest itself ends it at `timeout`.

        GuestError if it took longer than `timeout` (the guest can still be used)
        or if the guest is dead.
        """
        text = script.encode("utf-8", "surrogateescape") + b"\n"
        if len(text) > COMMAND_SIZE:
            raise GuestError(f"a command of {len(text)} bytes is longer than {COMMAND_SIZE}")
        started = time.monotonic()
        self._ring(text, timeout)
        silence = f"no longer answers (waited {timeout + GRACE:g} s): {brief(script)}"
        words: list[str] = []
        while len(words) != 3 or words[0] != str(self._last):
            words = self._line(started + timeout + GRACE, silence).split()
        size, seconds = int(words[2]), time.monotonic() - started
        if words[1] == LATE:
            raise GuestError(f"not done within {timeout:g} s: {brief(script)}")
        if size > OUTPUT_SIZE:
            raise GuestError(f"output of {size} bytes is more than {OUTPUT_SIZE}: {brief(script)}")
        return int(words[1]), os.pread(self._memory, size, OUTPUT_START), seconds

    def send(self, script: str) -> None:
        """Start a script that is not expected to answer."""
        self._ring(script.encode("utf-8", "surrogateescape") + b"\n", 60.0)

    def _ring(self, text: bytes, limit: float) -> None:
        if self.dead:
            raise GuestError("the guest ended or went silent before")
        os.pwrite(self._memory, text, COMMAND_START)
        self._last += 1
        try:
            self._machine.ring(f"{self._last} {len(text)} {limit:.2f}")
        except GuestError:
            self.dead = True
            raise

    def _line(self, deadline: float, silence: str) -> str:
        try:
            return self._machine.line(deadline)
        except TimeoutError:
            self.dead = True
            raise GuestError(f"the guest {silence}") from None
        except GuestError:
            self.dead = True
            raise

    def place(self, data: bytes) -> None:
        """At most DATA_SIZE bytes into the data area, for the guest to fetch."""
        os.pwrite(self._memory, data, DATA_START)

    def taken(self, size: int) -> bytes:
        """`size` bytes that the guest has put into the data area."""
        return os.pread(self._memory, size, DATA_START)


def brief(script: str) -> str:
    """The first line of a script, for a message."""
    line = script.strip().partition("\n")[0]
    return line if len(line) <= 80 else line[:77] + "..."

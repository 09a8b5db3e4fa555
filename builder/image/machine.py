"""A kernel that runs: its files, its modules, its tasks. This machine, or a guest driven from outside.

A `Host` is what the loader and the trail need of a kernel. Errors are the
kernel's own: an OSError with its number and the path that was asked.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from builder.acquire.whole import write_whole
from builder.binary.ours import HOLD_PARAMETER
from builder.errors import UsageError
from builder.image.transition import LIVEPATCHES, PatchState, describe_task, holds_up

if TYPE_CHECKING:  # whoever has a guest has loaded what runs it
    from builder.image.guest import Guest

TRACING = "/sys/kernel/tracing"
KPROBE_EVENTS = f"{TRACING}/kprobe_events"
KPROBES_LIST = "/sys/kernel/debug/kprobes/list"
OPTIMIZATION = "/proc/sys/debug/kprobes-optimization"
MODULES = "/sys/module"

# arch/x86/entry/syscalls/syscall_64.tbl; glibc has no wrappers for these.
_INIT_MODULE, _DELETE_MODULE = 175, 176
_CLOSE_ON_SIGNAL = os.O_NONBLOCK

# The parameter of a module of ours that keeps its patch from being enabled (templates/glue.x86_64.s.j2).
_HELD = f"{HOLD_PARAMETER}=1"
_GO_ON, _WAITING, _GIVE_UP = "0", "2", "3"
_LOOK = 0.01


Between = Callable[[], None]


class Host(Protocol):
    """A running kernel as seen by root."""

    def read(self, path: str) -> str:
        """The whole of a file."""

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        """One write to a file of the kernel."""

    def names(self, path: str) -> tuple[str, ...]:
        """What a directory holds, sorted; empty where there is none."""

    def store(self, path: str, text: str) -> None:
        """A file of one's own: there whole or not at all, its directory made."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

    def insert(self, module: bytes, name: str = "", between: Between | None = None) -> None:
        """init_module(2).

        With `between`, a livepatch of ours called `name` is held (builder/emit/glue.py) while that is
        called: all that names a loaded object is bound by then, and no function is redirected yet.
        What `between` raises keeps the patch from being enabled, and is raised again.
        """

    def delete(self, name: str) -> None:
        """delete_module(2)."""

    def waiting(self, *, enabled: bool) -> tuple[str, ...]:
        """`TID COMMAND STACK` of each task that a running transition to `enabled` waits for."""

    def pause(self, seconds: float) -> None:
        """Let time pass."""

    def lock(self, path: str) -> AbstractContextManager[None]:
        """Hold a file's lock; UsageError where another process has it."""


def patch_state(host: Host, name: str) -> PatchState | None:
    """Of a livepatch; None where none of that name is enabled or in transition."""
    place = f"{LIVEPATCHES}/{name}"
    try:
        return PatchState.parse(host.read(f"{place}/enabled"), host.read(f"{place}/transition"))
    except OSError:
        return None


class ThisMachine:
    """The kernel that this process runs on, by plain file operations."""

    def read(self, path: str) -> str:
        return Path(path).read_text(errors="replace")

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        handle = os.open(path, os.O_WRONLY | (os.O_APPEND if append else os.O_TRUNC))
        try:
            os.write(handle, text.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(handle)

    def names(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(path)))
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def store(self, path: str, text: str) -> None:
        write_whole(Path(path), text, sync=True)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def insert(self, module: bytes, name: str = "", between: Between | None = None) -> None:
        if between is None:
            _init_module(module)
            return
        # The kernel takes a signal for the wish to give up, so that what comes here is for the main thread alone;
        # a SIGKILL ends both, and with them the waiting.
        with ThreadPoolExecutor(1, initializer=_block_signals) as pool:
            loading = pool.submit(_init_module, module, _HELD.encode())
            _while_held(self, name, loading.done, loading.result, between)

    def delete(self, name: str) -> None:
        _syscall(_DELETE_MODULE, ctypes.c_char_p(name.encode()), ctypes.c_uint(_CLOSE_ON_SIGNAL))

    def waiting(self, *, enabled: bool) -> tuple[str, ...]:
        return tuple(_waiting(enabled))

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    @contextmanager
    def lock(self, path: str) -> Iterator[None]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError("another bespoke is changing this kernel", where=path) from None
            yield


def _init_module(module: bytes, parameters: bytes = b"") -> None:
    _syscall(_INIT_MODULE, ctypes.c_char_p(module), ctypes.c_ulong(len(module)), ctypes.c_char_p(parameters))


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _while_held(
    host: Host, name: str, done: Callable[[], bool], result: Callable[[], object], between: Between
) -> None:
    """Call `between` once a module that is being loaded waits, let it go on, and raise what its loading came to.

    Where nothing holds it, for none of its objects is loaded, `between` is called afterwards.
    """
    gate = f"{MODULES}/{name}/parameters/{HOLD_PARAMETER}"

    def tell(value: str) -> None:
        with suppress(OSError):  # it may have waited for too long: its loading says so
            host.write(gate, value)

    while not done() and not _waits(host, gate):
        host.pause(_LOOK)
    if done():
        result()
        between()
        return
    try:
        between()
    except BaseException:
        tell(_GIVE_UP)
        raise
    tell(_GO_ON)
    result()


def _waits(host: Host, gate: str) -> bool:
    try:
        return host.read(gate).strip() == _WAITING
    except OSError:
        return False


def _syscall(number: int, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ctypes.c_long(number), *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _waiting(enabled: bool) -> Iterator[str]:
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        with suppress(OSError):  # it may end while it is looked at
            if holds_up((task / "patch_state").read_text(), enabled=enabled):
                stack = (task / "stack").read_text().splitlines()
                yield describe_task(task.name, (task / "comm").read_text(), stack)


class GuestHost:
    """A guest's kernel, driven through the guest's shell; one process drives it, so nothing is locked."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def read(self, path: str) -> str:
        return self._run(f"cat {shlex.quote(path)}", path)

    def write(self, path: str, text: str, *, append: bool = False) -> None:
        to = f"{'>>' if append else '>'} {shlex.quote(path)}"
        if len(text) < _SHORT:
            self._run(f"printf %s {shlex.quote(text)} {to}", path)
            return
        # In one write(2), as on this machine: the shell's printf would cut lines in two between its buffers.
        self.guest.put(_DRAFT, text.encode())
        self._run(f"dd if={_DRAFT} bs={len(text.encode())} count=1 status=none {to}", path)

    def names(self, path: str) -> tuple[str, ...]:
        answer = self.guest.run(f"cd {shlex.quote(path)} 2>/dev/null && ls -A")
        return tuple(sorted(answer.output.split())) if answer.ok else ()

    def store(self, path: str, text: str) -> None:
        draft = f"{path}.new"
        self.guest.put(draft, text.encode())
        self._run(f"mv {shlex.quote(draft)} {shlex.quote(path)}", path)

    def remove(self, path: str) -> None:
        self._run(f"rm -f {shlex.quote(path)}", path)

    def insert(self, module: bytes, name: str = "", between: Between | None = None) -> None:
        if between is None:
            answer = self.guest.insmod(module)
            if not answer.ok:
                raise _error(answer.output, None)
            return
        self.guest.put("/run/held.ko", module)
        script = f"insmod /run/held.ko {_HELD} > /run/held.said 2>&1; echo $? > {_ENDED}.new"
        script += f"; mv {_ENDED}.new {_ENDED}"
        self.guest.check(f"rm -f {_ENDED}; ({script}) > /dev/null 2>&1 &")

        def done() -> bool:
            return self.guest.run(f"test -e {_ENDED}").ok

        def result() -> None:
            self.guest.check(f"while ! test -e {_ENDED}; do sleep 0.05; done", timeout=120)
            if self.read(_ENDED).strip() != "0":
                raise _error(self.read("/run/held.said"), None)

        _while_held(self, name, done, result, between)

    def delete(self, name: str) -> None:
        self._run(f"rmmod {shlex.quote(name)}", None)

    def waiting(self, *, enabled: bool) -> tuple[str, ...]:
        return self.guest.stuck_tasks(enabled=enabled)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def lock(self, path: str) -> AbstractContextManager[None]:
        return nullcontext()

    def _run(self, command: str, path: str | None) -> str:
        answer = self.guest.run(command)
        if not answer.ok:
            raise _error(answer.output, path)
        return answer.output


_ENDED = "/run/held.status"
_DRAFT = "/run/written"
_SHORT = 1000  # bytes: less than any buffer of the C library's stdio

# What busybox says of init_module's errors in words of its own (modutils/modutils.c, moderror).
_WORDS = {
    "invalid module format": errno.ENOEXEC,
    "unknown symbol in module, or unknown parameter": errno.ENOENT,
    "module has wrong symbol version": errno.ESRCH,
    "kernel does not support requested operation": errno.ENOSYS,
    "nonexistent directory": errno.ENOENT,
} | {os.strerror(code): code for code in errno.errorcode}


def _error(said: str, path: str | None) -> OSError:
    """The error that a command's last words tell."""
    text = said.strip().rpartition("\n")[2].rpartition(": ")[2]
    code = _WORDS.get(text, errno.EIO)
    return OSError(code, text or os.strerror(code), path) if path else OSError(code, text or os.strerror(code))

"""The guest as people use it: boot, commands, files, modules, livepatches, the log."""

from __future__ import annotations

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
from builder.image.guest.modules import BootableKernel, ModuleFile, ModuleTree, plain
from builder.image.guest.qemu import Machine, MachineConfig

BY_BYTES = "iflag=skip_bytes,count_bytes,fullblock status=none"
LIVEPATCHES = "/sys/kernel/livepatch"
STUCK_TASKS = """\
for task in /proc/[0-9]*/task/[0-9]*; do
    state=$(cat $task/patch_state 2>/dev/null) || continue
    [ "$state" = {target} ] || [ "$state" = -1 ] && continue
    stack=$(sed -n 's/^\\[<0>\\] //p' $task/stack 2>/dev/null | head -4 | tr '\\n' ' ')
    echo "${{task##*/}} $(cat $task/comm 2>/dev/null) $stack"
done
"""


@dataclass(frozen=True, slots=True)
class Share:
    """A directory of the host in the guest, by 9p; needs the kernel's modules."""

    path: Path
    mountpoint: str
    readonly: bool = True


@dataclass(frozen=True, slots=True)
class PatchState:
    """A livepatch as /sys/kernel/livepatch shows it."""

    enabled: bool
    transition: bool


class Guest:
    """A stock kernel running in QEMU; a context manager, booted on entry, gone on exit.

    Boots the extracted vmlinux by PVH (about 2 s), or with `kaslr` the bzImage
    (about 4 s). All methods raise GuestError (with the end of the kernel's log
    in `log`) when the guest has died or does not answer in time; what is not
    found on the host raises InputError or ToolError.
    """

    def __init__(
        self,
        kernel: BootableKernel,
        *,
        cpu: str = "max",
        smp: int = 1,
        memory_mb: int = 1024,
        kaslr: bool = False,
        cmdline: str = "",
        accel: str = "tcg",
        panic_on_oops: bool = True,
        files: Mapping[str, bytes | Path] | None = None,
        modules: Mapping[str, Path] | None = None,
        shares: Iterable[Share] = (),
        boot_timeout: float = 120.0,
    ) -> None:
        """`files`: by path in the guest. `modules`: the caller's own, by name, before the kernel's tree."""
        self.kernel = kernel
        self.config = MachineConfig(cpu, smp, memory_mb, kaslr, accel, cmdline, panic_on_oops)
        self.tree = ModuleTree(kernel, modules)
        self.boot_seconds = 0.0
        self._files = dict(files or {})
        self._shares = tuple(shares)
        self._boot_timeout = boot_timeout
        self._machine: Machine | None = None
        self._channel: Channel | None = None

    # Life

    def __enter__(self) -> Self:
        script = initramfs.render(
            "guest-init.sh.j2",
            command_page=COMMAND_START // PAGE,
            output_page=OUTPUT_START // PAGE,
            output_size=OUTPUT_SIZE,
            doorbell="ttyS1",
        )
        archive = initramfs.archive([*initramfs.base_nodes(script), *initramfs.user_nodes(self._files)])
        image = self.kernel.path if self.config.kaslr else self.kernel.vmlinux
        if not image.is_file():
            raise InputError("no such kernel image", where=image)
        if self.config.kaslr and image.read_bytes()[:4] == b"\x7fELF":
            raise InputError("only a bzImage can place itself (KASLR); this is a vmlinux", where=image)
        started = time.monotonic()
        self._machine = Machine(image, archive, self.config, window=WINDOW, devices=self._devices())
        try:
            self._channel = Channel(self._machine)
            with self._explained():
                release = self._channel.greeting(self._boot_timeout)
            if release != self.kernel.release:
                raise GuestError(f"the guest runs {release}, not {self.kernel.release}", where=image)
            self.boot_seconds = time.monotonic() - started
            self._mount()
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

    def get(
        self, guest_path: str, *, offset: int = 0, length: int | None = None, timeout: float = 60.0
    ) -> bytes:
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

    # Modules

    def loaded(self) -> tuple[str, ...]:
        """The names in /proc/modules."""
        return tuple(line.split()[0] for line in self.check("cat /proc/modules").splitlines())

    def insmod(
        self, source: Path | bytes, name: str = "module", params: str = "", *, timeout: float = 60.0
    ) -> Answer:
        """Give the kernel one module as it is, dependencies not considered; the answer is the kernel's.

        `name` is only what its messages call the file; a file on the host may be compressed.
        """
        place = shlex.quote(f"/run/{name}.ko")
        self.put(f"/run/{name}.ko", source if isinstance(source, bytes) else ModuleFile.read(source).data)
        return self.run(f"insmod {place} {params}; status=$?; rm -f {place}; exit $status", timeout=timeout)

    def rmmod(self, name: str, *, timeout: float = 30.0) -> Answer:
        return self.run(f"rmmod {shlex.quote(name)}", timeout=timeout)

    def modprobe(self, *names: str, params: str = "", timeout: float = 60.0) -> tuple[str, ...]:
        """Load modules with what they depend on; the names loaded, in order. `params` go to the last one.

        GuestError if the kernel refuses one, InputError if one is not to be found.
        """
        order = self.tree.closure(names, self.loaded())
        for module in order:
            wanted = params if names and module.name == plain(names[-1]) else ""
            answer = self.insmod(module.data, module.name, wanted, timeout=timeout)
            if not answer.ok:
                raise self._fail(f"module {module.name} was not loaded: {answer.output.strip()}")
        return tuple(module.name for module in order)

    # Livepatches

    def livepatch_state(self, name: str) -> PatchState | None:
        """None if there is no livepatch `name`."""
        answer = self.run(f"cd {LIVEPATCHES}/{shlex.quote(plain(name))} && cat enabled transition")
        words = answer.output.split()
        return PatchState(words[0] == "1", words[1] == "1") if answer.ok and len(words) == 2 else None

    def livepatch_objects(self, name: str) -> dict[str, bool | None]:
        """The objects that a livepatch names, vmlinux too; True where patched, None where the kernel
        does not say (the attribute `patched` came in 6.2)."""
        place = f"{LIVEPATCHES}/{shlex.quote(plain(name))}"
        script = 'for object in */; do echo "${object%/}" $(cat $object/patched 2>/dev/null); done'
        rows = [line.split() for line in self.check(f"cd {place} && {script}").splitlines()]
        return {row[0]: row[1] == "1" if len(row) > 1 else None for row in rows}

    def wait_transition(self, name: str, timeout: float = 60.0) -> float:
        """Wait until every task has changed over; seconds waited. GuestError names the tasks that have not.

        A livepatch that is gone has nothing left to do.
        """
        started = time.monotonic()
        while (state := self.livepatch_state(name)) is not None and state.transition:
            if time.monotonic() - started > timeout:
                held = "; ".join(self.stuck_tasks(enabled=state.enabled)) or "no task, though"
                raise self._fail(f"transition of {name} not done within {timeout:g} s, held up by {held}")
            time.sleep(0.05)
        return time.monotonic() - started

    def stuck_tasks(self, *, enabled: bool) -> tuple[str, ...]:
        """`TID COMMAND STACK` of each task that has not reached the state of a running transition."""
        return tuple(self.run(STUCK_TASKS.format(target=int(enabled))).output.splitlines())

    def disable_livepatch(self, name: str, timeout: float = 60.0) -> float:
        """Disable, and wait until the sysfs directory has gone, as only then rmmod works; seconds taken."""
        name, started = plain(name), time.monotonic()
        self.check(f"echo 0 > {LIVEPATCHES}/{shlex.quote(name)}/enabled")
        self.wait_transition(name, timeout)
        while self.livepatch_state(name) is not None:
            if time.monotonic() - started > timeout:
                raise self._fail(f"livepatch {name} was disabled but is still in {LIVEPATCHES}")
            time.sleep(0.05)
        return time.monotonic() - started

    # The log

    def console(self) -> str:
        """What the first serial port has printed, firmware and user space included; also after the end."""
        return self._started().console()

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

    def _started(self) -> Machine:
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
            reason = log.first_failure() or machine.complaint() or silence
        return GuestError(f"{message}: {reason}" if reason else message, log=log.tail())

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

    def _mount(self) -> None:
        if self._shares:
            self.modprobe("virtio_pci", "9pnet_virtio", "9p")
        for number, share in enumerate(self._shares):
            place, mode = shlex.quote(share.mountpoint), "ro" if share.readonly else "rw"
            options = f"trans=virtio,version=9p2000.L,msize=512000,cache=none,{mode}"
            self.check(f"mkdir -p {place} && mount -t 9p -o {options} share{number} {place}")

"""The guest as people use it: what a session can do, and modules and livepatches."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from builder.binary.module import ModuleFile, plain
from builder.image.guest import initramfs
from builder.image.guest.channel import Answer
from builder.image.guest.qemu import MIB
from builder.image.guest.session import REQUESTS, Session
from builder.image.transition import LIVEPATCHES, PatchState, describe_task, holds_up

LOAD_MANY = """\
rm -rf /run/batch && mkdir /run/batch && cd /run/batch && cpio -i < ../batch.cpio 2>/dev/null || exit 1
rm ../batch.cpio
load() {
    name=$1; shift
    said=$(insmod $name.ko "$@" 2>&1) || echo $name $said
    rm $name.ko
}
"""
BATCH_SIZE = 64 * MIB
"""What fits into the guest's memory beside what is loaded."""


class Guest(Session):
    """A stock kernel running in QEMU; a context manager, booted on entry, gone on exit.

    Boots the extracted vmlinux by PVH (about 2 s), or with `kaslr` the bzImage
    (about 4 s). All methods raise GuestError (with the end of the kernel's log
    in `log`) when the guest has died or does not answer in time; what is not
    found on the host raises InputError or ToolError. One thread at a time, and
    the one that booted it must live as long as it does.
    """

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._mount()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _mount(self) -> None:
        if self._shares:
            self.modprobe("virtio_pci", "9pnet_virtio", "9p")
        for number, share in enumerate(self._shares):
            place, mode = shlex.quote(share.mountpoint), "ro" if share.readonly else "rw"
            options = f"trans=virtio,version=9p2000.L,msize=512000,cache=none,{mode}"
            self.check(f"mkdir -p {place} && mount -t 9p -o {options} share{number} {place}")

    # Modules

    def loaded(self) -> tuple[str, ...]:
        """The names in /proc/modules, the last loaded first."""
        return tuple(self.users())

    def users(self) -> dict[str, tuple[str, ...]]:
        """Each loaded module, the last first, with the modules that use it: the fourth column of /proc/modules."""
        rows = (line.split() for line in self.check("cat /proc/modules").splitlines())
        return {row[0]: tuple(name for name in row[3].split(",") if name not in ("", "-")) for row in rows}

    def insmod(self, source: Path | bytes, name: str = "module", params: str = "", *, timeout: float = 60.0) -> Answer:
        """Give the kernel one module as it is, dependencies not considered; the answer is the kernel's.

        `name` is only what its messages call the file; a file on the host may be compressed.
        """
        place = shlex.quote(f"/run/{name}.ko")
        self.put(f"/run/{name}.ko", source if isinstance(source, bytes) else ModuleFile.read_named(source).data)
        return self.run(f"insmod {place} {params}; status=$?; rm -f {place}; exit $status", timeout=timeout)

    def rmmod(self, name: str, *, timeout: float = 30.0) -> Answer:
        return self.run(f"rmmod {shlex.quote(name)}", timeout=timeout)

    def load(
        self, modules: Iterable[ModuleFile], params: Mapping[str, str] | None = None, *, timeout: float = 60.0
    ) -> dict[str, str]:
        """Load many modules in the order given; what was refused, by name, with the reason.

        `params` are by name too; `timeout` is for each. A refusal stops none of the others.
        """
        refused: dict[str, str] = {}
        for batch in batches(modules):
            refused |= self.load_batch(batch, params, timeout=timeout)
        return {name: said.rpartition(": ")[2] for name, said in refused.items()}

    def load_batch(
        self, batch: Sequence[ModuleFile], params: Mapping[str, str] | None = None, *, timeout: float = 60.0
    ) -> dict[str, str]:
        """Load modules that together fit into the guest's memory; by name, all that insmod said of one refused."""
        files = (initramfs.program(f"{module.name}.ko", module.data) for module in batch)
        self.put("/run/batch.cpio", initramfs.archive(files))
        words = (f"load {m.name} {(params or {}).get(m.name, '')}" for m in batch)
        answer = self.check(LOAD_MANY + "\n".join(words), timeout=timeout * len(batch))
        rows = (line.partition(" ") for line in answer.splitlines())
        return {name: said for name, _, said in rows}

    def modprobe(self, *names: str, params: str = "", timeout: float = 60.0) -> tuple[str, ...]:
        """Load modules with what they depend on; the names loaded, in order. `params` go to the last one.

        A module that is refused is tried again once what the kernel has asked for
        in vain meanwhile, such as a crypto algorithm, is loaded too. GuestError if
        the kernel refuses one for good, InputError if one is not to be found.
        """
        order, told = self.tree.closure(names, self.loaded()), {plain(names[-1]): params} if names else {}
        refused, asked = self.load(order, told, timeout=timeout), set[str]()
        while refused and (wanted := self._requested() - asked):
            asked |= wanted
            self.load(self.tree.closure(sorted(wanted), self.loaded()), timeout=timeout)
            refused = self.load([module for module in order if module.name in refused], told, timeout=timeout)
        if refused:
            name, why = next(iter(refused.items()))
            said = [record.text for record in self.log().records if name in record.text]
            raise self._fail(": ".join([f"module {name} was not loaded", why, *said[-1:]]))
        return tuple(module.name for module in order)

    def _requested(self) -> set[str]:
        """The modules for what request_module() has asked for since the last call."""
        requests = self.check(f"cat {REQUESTS} 2>/dev/null; rm -f {REQUESTS}").split()
        return {provider for name in requests if (provider := self.tree.provider(name)) is not None}

    # Livepatches

    def livepatch_state(self, name: str) -> PatchState | None:
        """None if there is no livepatch `name`."""
        answer = self.run(f"cd {LIVEPATCHES}/{shlex.quote(plain(name))} && cat enabled transition")
        words = answer.output.split()
        return PatchState.parse(*words) if answer.ok and len(words) == 2 else None

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
        states = self.run("grep -H . /proc/[0-9]*/task/[0-9]*/patch_state 2>/dev/null").output.splitlines()
        rows = (line.rpartition("/patch_state:") for line in states)
        stuck = [task for task, _, state in rows if holds_up(state, enabled=enabled)]
        return tuple(filter(None, map(self._task, stuck)))

    def _task(self, task: str) -> str | None:
        """A task of /proc as it is shown to people; None for one that has ended meanwhile."""
        answer = self.run(f"cd {task} 2>/dev/null && cat comm stack")
        command, *stack = answer.output.splitlines() or [""]
        return describe_task(task.rpartition("/")[2], command, stack) if answer.ok else None

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


def batches(modules: Iterable[ModuleFile], most: int = BATCH_SIZE) -> Iterator[list[ModuleFile]]:
    """Runs of modules that have together at most so many bytes, or one that has more."""
    batch, size = list[ModuleFile](), 0
    for module in modules:
        if batch and size + len(module.data) > most:
            yield batch
            batch, size = [], 0
        batch.append(module)
        size += len(module.data)
    if batch:
        yield batch

"""One module in a running guest: loaded, seen to work, and taken out again."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder.binary.kernel import Kernel
from builder.binary.ours import plain_name
from builder.errors import BespokeError, GuestError
from builder.image.guest import Guest, MachineConfig, Share, taints
from builder.image.guest.log import EXPECTED_TAINTS
from tests.running.pairs import Outcome
from tests.running.triggers import TRIGGERS, Trigger

TRACING = "/sys/kernel/tracing"
HOST = "/host"
HANDLER = "klp_ftrace_handler"
NEVER_LEFT = {"net__core__pktgen": ("pktgen_thread_worker",)}
"""Functions that a thread of the kernel enters once and for all: with such a thread no transition can end."""


@dataclass
class Visit:
    """What was seen. `order` says when the target came: `vmlinux`, `target first` or `target later`.

    `hits` counts the runs of each new function that could be asked about;
    `held` names what kept the transition from its end. `problems` is what should
    not have been, empty when all went well.
    """

    pair: str
    order: str
    insmod: float = 0.0
    transition: float = 0.0
    held: str = ""
    loaded: bool = False
    redirected: tuple[str, ...] = ()
    hits: Mapping[str, int] = field(default_factory=dict)
    unloaded: bool = False
    warnings: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)


@contextmanager
def machine(kernel: Kernel) -> Iterator[Guest]:
    """A guest that can run the host's Python, with memfd_secret() switched on."""
    share = Share(Path("/"), HOST)
    with Guest(kernel, MachineConfig(memory_mb=2048, cmdline="secretmem.enable=1"), shares=[share]) as guest:
        guest.check("mkdir -p /dev/pts && mount -t devpts none /dev/pts")
        guest.check(f"for place in dev proc sys run; do mount --rbind /$place {HOST}/$place; done")
        yield guest


def visits(guest: Guest, outcome: Outcome) -> Iterator[Visit]:
    """Every order in which livepatch and target can come; a guest that dies ends it with GuestError."""
    if outcome.owner == "vmlinux":
        yield _Visitor(guest, outcome, "vmlinux").run()
        return
    for order in ("target later", "target first"):
        yield _Visitor(guest, outcome, order).run()


class _Visitor:
    def __init__(self, guest: Guest, outcome: Outcome, order: str) -> None:
        assert outcome.module is not None
        self.guest, self.outcome, self.name = guest, outcome, outcome.module.name
        self.visit = Visit(outcome.pair, order)

    def run(self) -> Visit:
        guest, visit = self.guest, self.visit
        mark, before, usual = guest.mark(), guest.loaded(), guest.tainted()
        try:
            self._steps()
        except BespokeError as error:
            if not guest.alive:
                raise
            visit.problems.append(str(error))
        finally:
            if guest.alive:
                self._clean(before)
                trigger = TRIGGERS.get(self.outcome.pair)
                rightly = trigger.says if trigger else ""
                visit.warnings = tuple(w for w in guest.warnings(mark) if not rightly or rightly not in w)
                visit.problems += [f"the kernel warned: {text}" for text in visit.warnings]
                odd = set(taints(guest.tainted() & ~usual)) - set(EXPECTED_TAINTS)
                visit.problems += [f"unexpected taint {letter}" for letter in sorted(odd)]
        return visit

    def _steps(self) -> None:
        guest, visit, module = self.guest, self.visit, self.outcome.module
        assert module is not None
        if visit.order == "target first":
            guest.modprobe(self.outcome.owner)
        answer = guest.insmod(module.content, self.name)
        visit.insmod = answer.seconds
        if not answer.ok:
            raise GuestError(f"insmod: {answer.output.strip()}: {guest.log().tail(3)}")
        visit.transition = self._wait()
        self._plant()
        if visit.order == "target later":
            guest.modprobe(self.outcome.owner)
        visit.loaded = True
        self._look()
        self._trigger()

    def _wait(self) -> float:
        """Seconds to the end of the transition; a thread that never leaves a replaced function is no surprise."""
        try:
            return self.guest.wait_transition(self.name, 20)
        except GuestError as error:
            if not any(f" {old}+" in str(error) for old in NEVER_LEFT.get(self.outcome.pair, ())):
                raise
            self.visit.held = str(error).partition("held up by ")[2]
            return 20.0

    def _look(self) -> None:
        """sysfs names every replaced function, and each one's ftrace location leads to livepatch."""
        guest, visit, owner = self.guest, self.visit, self.outcome.owner
        shown = set(guest.check(f"ls /sys/kernel/livepatch/{self.name}/{owner}").split())
        # klp_init_func (kernel/livepatch/core.c) shows sympos 0 as 1
        wanted = {f"{old},{sympos or 1}" for _, old, sympos in self.outcome.replaced}
        visit.problems += [f"not in sysfs: {name}" for name in sorted(wanted - shown)]
        rows = guest.check(f"cat {TRACING}/enabled_functions").splitlines()
        led = {row.split()[0] for row in rows if HANDLER in row and re.search(r"\)[ RD]*I", row)}
        visit.redirected = tuple(old for _, old, _ in self.outcome.replaced if old in led)
        visit.problems += [f"not redirected: {old}" for _, old, _ in self.outcome.replaced if old not in led]

    def _plant(self) -> None:
        """A probe at the start of every new function counts its runs."""
        for number, (new, _, _) in enumerate(self.outcome.replaced):
            place = shlex.quote(f"p:bespoke/f{number} {self.name}:{new}")
            self.guest.check(f"echo {place} >> {TRACING}/kprobe_events")
        self.guest.check(f"echo 1 > {TRACING}/events/bespoke/enable")

    def _trigger(self) -> None:
        guest, visit = self.guest, self.visit
        trigger = TRIGGERS.get(self.outcome.pair)
        if trigger is not None:
            if trigger.modules:
                guest.modprobe(*trigger.modules)
            answer = guest.run(command(trigger), timeout=120)
            if not answer.ok:
                visit.problems.append(f"the command failed: {answer.output.strip()[-200:]}")
        rows = (line.split() for line in guest.check(f"cat {TRACING}/kprobe_profile").splitlines())
        counts = {row[0]: int(row[1]) for row in rows if row}
        visit.hits = {plain_name(new): counts.get(f"f{k}", 0) for k, (new, _, _) in enumerate(self.outcome.replaced)}
        for function in trigger.reaches if trigger else ():
            # what runs only as the target is loaded has run already where the target came first
            if not visit.hits.get(function):
                visit.problems.append(f"did not run: {function}")

    def _clean(self, before: tuple[str, ...]) -> None:
        """Everything is as it was: probes, the livepatch, then whatever else was loaded."""
        guest, visit = self.guest, self.visit
        guest.run(f"echo 0 > {TRACING}/events/bespoke/enable; echo > {TRACING}/kprobe_events")
        try:
            if self.outcome.pair in NEVER_LEFT:  # its threads end with it
                guest.rmmod(self.outcome.owner)
            if (state := guest.livepatch_state(self.name)) is not None:
                if state.transition:
                    guest.wait_transition(self.name)
                guest.disable_livepatch(self.name)
            if self.name in guest.loaded():
                visit.unloaded = guest.rmmod(self.name).ok
                if not visit.unloaded:
                    visit.problems.append("could not be removed")
        except GuestError as error:
            visit.problems.append(str(error))
        for _ in range(20):  # what a command has begun may hold a module for some seconds more
            left = [name for name in guest.loaded() if name not in (*before, self.name)]
            for name in left:
                guest.rmmod(name)
            if not left:
                break
            time.sleep(1)
        visit.problems += [f"{name} stayed" for name in guest.loaded() if name not in before]


def command(trigger: Trigger) -> str:
    """What the guest's shell is given."""
    if trigger.shell:
        return trigger.shell
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return f"chroot {HOST} {interpreter} -I -S -c {shlex.quote(trigger.python)}"

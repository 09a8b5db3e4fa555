"""A trial: a module loaded in a guest that runs the kernel it is for, a command before, with and after it.

What happens, in order, is the text of `_Trial._in`; each step is timed and
reported, and the first one that fails ends the trial with the kernel's log.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from builder.binary.module import ModuleFile, plain
from builder.errors import BespokeError, GuestError, LoadError
from builder.image.guest import Answer, Guest, MachineConfig, taints
from builder.image.guest.log import EXPECTED, EXPECTED_TAINTS, KernelLog, ModuleTraffic, taint_meaning
from builder.image.guest.modules import BootableKernel, ModuleTree
from builder.image.marks import SUFFIX, TRACEFS, MarkRecord, MarkTotals, parse_record, parse_totals

PHASES = ("before", "with", "after")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trial; `output` is what the guest said, or why the step failed.

    `note` says what a step did not do where the trial goes on all the same, for that is not the module's failure;
    such a step is not `ok`.
    """

    name: str
    ok: bool
    seconds: float
    output: str = ""
    note: str = ""


@dataclass(slots=True)
class _Doing:
    """A step while it is done: what is worth showing of it, and its note."""

    said: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True)
class CommandRun:
    """A command and its answers by phase (`before`, `with`, `after`), as far as it got."""

    command: str
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What came of a trial. `failure` is None for a success; `dmesg` is kept when something failed.

    `records` are what its marks recorded while the commands ran with it, `totals` what they have seen.
    `untried` are those of the `objects` that this guest does not load: nothing is known of their new code.
    """

    module: str
    kernel: str
    cpu: str
    kaslr: bool
    objects: tuple[str, ...]
    untried: tuple[str, ...]
    steps: tuple[Step, ...]
    commands: tuple[CommandRun, ...]
    warnings: tuple[str, ...]
    taint: int
    failure: str | None
    seconds: float
    dmesg: str = field(default="", repr=False)
    records: tuple[MarkRecord, ...] = ()
    totals: tuple[MarkTotals, ...] = ()

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def taints(self) -> Mapping[str, str]:
        """Letter -> meaning of each taint that the kernel had at the end."""
        return {letter: taint_meaning(letter) for letter in taints(self.taint)}

    def as_json(self) -> dict[str, object]:
        """The report as one JSON document's content."""
        row = asdict(self)
        answers = ({phase: asdict(answer) for phase, answer in run.answers.items()} for run in self.commands)
        row["commands"] = [{"command": r.command, **a} for r, a in zip(self.commands, answers, strict=True)]
        row["taint"] = {"value": self.taint, "flags": dict(self.taints)}
        return {"ok": self.ok, **row}


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What to try. `objects`: modules of the caller's own, by name; `load`: more modules to load first.

    With `late_load` the modules that the livepatch patches are loaded after it.
    `timeout` bounds each step, in seconds.
    """

    commands: tuple[str, ...] = ()
    objects: Mapping[str, Path] = field(default_factory=dict)
    load: tuple[str, ...] = ()
    late_load: bool = False
    timeout: float = 60.0
    config: MachineConfig = field(default_factory=MachineConfig)


TrialProgress = Callable[[Step | str], None]
"""Called with the name of a step as it begins and with the Step as it ends."""


def trial(
    module: Path | bytes,
    kernel: BootableKernel,
    plan: TrialPlan | None = None,
    *,
    progress: TrialProgress | None = None,
) -> TrialReport:
    """Try a module in a guest; a failure in the guest is in the report, not raised.

    Raises InputError for a module that cannot be read or an object that is
    nowhere to be found, and ToolError where QEMU or busybox is missing.
    """
    plan = plan or TrialPlan()
    return _Trial(ModuleFile.read_named(module), kernel, plan, progress or (lambda _: None)).run()


class _Trial:
    """The state of one trial while it runs."""

    def __init__(self, module: ModuleFile, kernel: BootableKernel, plan: TrialPlan, progress: TrialProgress) -> None:
        self.module, self.kernel, self.plan, self.progress = module, kernel, plan, progress
        self.tree = ModuleTree(kernel, plan.objects)
        own = tuple(map(plain, plan.objects))
        self.targets = [n for n in dict.fromkeys((*own, *module.patched_objects)) if self.tree.find(n)]
        for name in (*plan.load, *module.depends):
            self.tree.find(name)
        self.done: list[Step] = []
        self.answers: list[dict[str, Answer]] = [{} for _ in plan.commands]
        self.untried: dict[str, str] = {}
        self.traffic: list[ModuleTraffic] = []
        self.warnings: tuple[str, ...] = ()
        self.taint = 0
        self.records: tuple[MarkRecord, ...] = ()
        self.totals: tuple[MarkTotals, ...] = ()
        self.mark = self.patched = 0.0

    def run(self) -> TrialReport:
        started, failure, dmesg, booted = time.monotonic(), None, "", False
        guest = Guest(self.kernel, self.plan.config, modules=self.plan.objects)
        try:
            with self._step("boot"):
                guest.__enter__()
            booted = True
            self._in(guest)
        except BespokeError as error:
            if not booted and not isinstance(error, GuestError):
                raise  # nothing was tried: a tool or a file is missing on the host
            failure = f"{self.done[-1].name}: {error}"
            dmesg = self._last_words(guest)
        finally:
            guest.__exit__()
        return TrialReport(
            module=self.module.name,
            kernel=self.kernel.release,
            cpu=self.plan.config.cpu,
            kaslr=self.plan.config.kaslr,
            objects=tuple(self.targets),
            untried=tuple(name for name in self.untried if name in self.targets),
            steps=tuple(self.done),
            commands=tuple(map(CommandRun, self.plan.commands, self.answers)),
            warnings=self.warnings,
            taint=self.taint,
            failure=failure,
            seconds=time.monotonic() - started,
            dmesg=dmesg,
            records=self.records,
            totals=self.totals,
        )

    def _in(self, guest: Guest) -> None:
        """The steps, in order."""
        name, timeout = self.module.name, self.plan.timeout
        self.mark, at_first = guest.mark(), guest.loaded()
        self._load(guest, self.plan.load)
        self._load(guest, self.targets, targets=True)
        self._commands(guest, "before")
        if self.plan.late_load:
            self._take_away(guest, self.targets)
        self._load(guest, self.module.depends)
        self.patched, usual = guest.mark(), guest.tainted()
        with self._step(f"insmod {name}"):
            self._insert(guest, self.module)
        if self.module.is_livepatch:
            with self._step("transition to the new code"):
                guest.wait_transition(name, timeout)
            self._load_late(guest)
        with self._marked(guest):
            self._commands(guest, "with")
        if self.module.is_livepatch:
            with self._step("disable, transition to the old code"):
                guest.disable_livepatch(name, timeout)
        with self._step(f"rmmod {name}"):
            answer = guest.rmmod(name, timeout=timeout)
            if not answer.ok:
                raise LoadError(f"could not be removed: {_last_line(answer.output)}")
        self._commands(guest, "after")
        # What one of them says a little later is still its own.
        self.traffic.append(ModuleTraffic(guest.mark(), math.inf, again=False))
        self._take_away(guest, [other for other in guest.loaded() if other not in at_first])
        with self._step("kernel log and taints"):
            self._judge(guest, usual)
        with self._step("power off"):
            guest.poweroff(timeout)

    # The steps

    def _load(self, guest: Guest, names: Iterable[str], *, targets: bool = False) -> None:
        """Load modules with what they need, a step for each.

        Of `targets` it is a note, then and later, that this guest does not load one while the livepatch is not there.
        """
        for module in self.tree.closure(names, guest.loaded()):
            with self._step(f"load {module.name}") as doing:
                try:
                    guest.modprobe(module.name, timeout=self.plan.timeout)
                except GuestError as error:
                    if not targets or not guest.alive or (self.patched and module.name not in self.untried):
                        raise
                    doing.note = self.untried[module.name] = error.message
                    continue
                if module.is_livepatch:
                    guest.wait_transition(module.name, self.plan.timeout)

    def _insert(self, guest: Guest, module: ModuleFile) -> None:
        before = guest.mark()
        answer = guest.insmod(module.data, module.name, timeout=self.plan.timeout)
        if not answer.ok:
            raise LoadError(_refusal(answer, guest.log().since(before)))

    def _load_late(self, guest: Guest) -> None:
        """Load what the livepatch patches and is not there yet, then see that all of it is patched."""
        named = [name for name in guest.livepatch_objects(self.module.name) if name != "vmlinux"]
        known = len(self.targets)
        with self._step("what it patches besides vmlinux") as doing:
            self.targets.extend(name for name in named if name not in self.targets and self.tree.find(name))
            doing.said.append(", ".join(named))
        with self._traffic(guest, again=known == len(self.targets)):
            self._load(guest, self.plan.load)
            self._load(guest, self.targets, targets=True)
        objects = guest.livepatch_objects(self.module.name)
        left = [o for o, patched in objects.items() if patched is False and o not in self.untried]
        if left:
            raise LoadError(f"not patched although loaded: {', '.join(left)}")
        if objects and self.untried.keys() >= objects.keys():
            raise LoadError(f"nothing of it could be tried: {next(iter(self.untried.values()))}")

    def _take_away(self, guest: Guest, names: Iterable[str]) -> None:
        """rmmod modules and all that use them, the last loaded first; one that stays, as some always do, is a note."""
        users = guest.users()
        wanted, found = list(names), dict[str, None]()
        while wanted:
            if (name := wanted.pop()) in users and name not in found:
                found[name] = None
                wanted += users[name]
        for name in (name for name in users if name in found):
            with self._step(f"rmmod {name}") as doing:
                if (state := guest.livepatch_state(name)) is not None and state.enabled:
                    guest.disable_livepatch(name, self.plan.timeout)
                used_by = guest.users().get(name)
                answer = guest.rmmod(name, timeout=self.plan.timeout)
                doing.said.append(_last_line(answer.output))
                if not answer.ok:
                    doing.note = f"it stays: {_last_line(answer.output).rpartition(': ')[2]}"
                    if used_by:
                        doing.note = f"it stays, used by {', '.join(used_by)}"

    def _commands(self, guest: Guest, phase: str) -> None:
        for command, answers in zip(self.plan.commands, self.answers, strict=True):
            with self._step(f"{phase}: {command}") as doing:
                answer = answers[phase] = guest.run(command, timeout=self.plan.timeout)
                doing.said.append(answer.output.rstrip("\n"))
                doing.note = "" if answer.ok else f"status {answer.status}"

    @contextmanager
    def _marked(self, guest: Guest) -> Iterator[None]:
        """While the module's marks are on, if it has any: in an instance of tracefs that nobody else uses."""
        name = self.module.name
        seen = f"{TRACEFS}/{name}{SUFFIX}"
        if not guest.run(f"test -e {seen}").ok:
            yield
            return
        instance = f"{TRACEFS}/instances/bespoke-try"
        guest.check(
            f"mkdir {instance} && echo raw > {instance}/trace_options && echo 1 > {instance}/events/{name}/enable"
        )
        yield
        with self._step("records of its marks") as doing:
            guest.check(f"echo 0 > {instance}/events/{name}/enable")
            lines = guest.get(f"{instance}/trace", timeout=self.plan.timeout).decode(errors="replace").splitlines()
            self.records = tuple(filter(None, map(parse_record, lines)))
            self.totals = tuple(parse_totals(guest.check(f"cat {seen}")))
            guest.check(f"rmdir {instance}")
            doing.said.append(f"{sum(row.hits for row in self.totals)} hits, {len(self.records)} records")

    def _judge(self, guest: Guest, usual: int) -> None:
        """A warning, or a taint beyond those of any livepatch from elsewhere, fails the trial.

        What the kernel said before the module came is none of the module's doing, nor is what other modules say.
        """
        self.warnings = guest.log().caused(self.patched, self.traffic).warnings()
        self.taint = guest.tainted()
        if self.warnings:
            raise GuestError(f"the kernel warned: {self.warnings[0]}")
        odd = [letter for letter in taints(self.taint & ~usual) if letter not in EXPECTED_TAINTS]
        if odd:
            raise GuestError(f"unexpected taint: {', '.join(f'{x} ({taint_meaning(x)})' for x in odd)}")

    @contextmanager
    def _step(self, name: str) -> Iterator[_Doing]:
        """Time a step and record it, also if it fails."""
        doing = _Doing()
        self.progress(name)
        started, ok = time.monotonic(), False
        try:
            yield doing
            ok = not doing.note
        except BespokeError as error:
            doing.said.append(str(error))
            raise
        finally:
            step = Step(name, ok, time.monotonic() - started, "\n".join(filter(None, doing.said)), doing.note)
            self.done.append(step)
            self.progress(step)

    @contextmanager
    def _traffic(self, guest: Guest, *, again: bool) -> Iterator[None]:
        """While modules come and go that are not the one to try."""
        start = guest.mark()
        self.traffic.append(ModuleTraffic(start, math.inf, again))
        yield
        self.traffic[-1] = ModuleTraffic(start, guest.mark(), again)

    def _last_words(self, guest: Guest) -> str:
        """After a failure: the log since the boot was done; the warnings since the module came."""
        log = guest.log()
        if not log.records:
            return guest.complaint()
        self.warnings = (log.caused(self.patched, self.traffic) if self.patched else log.since(self.mark)).warnings()
        return str(log.since(self.mark))


def _refusal(answer: Answer, log: KernelLog) -> str:
    """Why the kernel would not load a module: its error, and what it said about it."""
    error = _last_line(answer.output).rpartition(": ")[2]
    said = [str(record.text) for record in log.records if not EXPECTED.search(record.text)]
    return f"the kernel refused it ({error})" + (f": {said[-1]}" if said else "")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]

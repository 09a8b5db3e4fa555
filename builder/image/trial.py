"""A trial: a module loaded in a guest that runs the kernel it is for, a command before, with and after it.

What happens, in order, is the text of `_Trial._in`; each step is timed and
reported, and the first one that fails ends the trial with the kernel's log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from builder.binary.module import ModuleFile, plain
from builder.errors import BespokeError, GuestError, LoadError
from builder.image.guest import Answer, Guest, MachineConfig, taints
from builder.image.guest.log import EXPECTED, EXPECTED_TAINTS, KernelLog, taint_meaning
from builder.image.guest.modules import BootableKernel, ModuleTree

PHASES = ("before", "with", "after")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trial; `output` is what the guest said, or why the step failed."""

    name: str
    ok: bool
    seconds: float
    output: str = ""


@dataclass(frozen=True, slots=True)
class CommandRun:
    """A command and its answers by phase (`before`, `with`, `after`), as far as it got."""

    command: str
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What came of a trial. `failure` is None for a success; `dmesg` is kept when something failed."""

    module: str
    kernel: str
    cpu: str
    kaslr: bool
    objects: tuple[str, ...]
    steps: tuple[Step, ...]
    commands: tuple[CommandRun, ...]
    warnings: tuple[str, ...]
    taint: int
    failure: str | None
    seconds: float
    dmesg: str = field(default="", repr=False)

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


Progress = Callable[[Step | str], None]
"""Called with the name of a step as it begins and with the Step as it ends."""


def trial(
    module: Path | bytes,
    kernel: BootableKernel,
    plan: TrialPlan | None = None,
    *,
    progress: Progress | None = None,
) -> TrialReport:
    """Try a module in a guest; a failure in the guest is in the report, not raised.

    Raises InputError for a module that cannot be read or an object that is
    nowhere to be found, and ToolError where QEMU or busybox is missing.
    """
    plan = plan or TrialPlan()
    return _Trial(ModuleFile.read_named(module), kernel, plan, progress or (lambda _: None)).run()


class _Trial:
    """The state of one trial while it runs."""

    def __init__(self, module: ModuleFile, kernel: BootableKernel, plan: TrialPlan, progress: Progress) -> None:
        self.module, self.kernel, self.plan, self.progress = module, kernel, plan, progress
        self.tree = ModuleTree(kernel, plan.objects)
        own = tuple(map(plain, plan.objects))
        self.targets = [n for n in dict.fromkeys((*own, *module.patched_objects)) if self.tree.find(n)]
        for name in (*plan.load, *module.depends):
            self.tree.find(name)
        self.done: list[Step] = []
        self.answers: list[dict[str, Answer]] = [{} for _ in plan.commands]
        self.ours: list[str] = []
        self.warnings: tuple[str, ...] = ()
        self.taint = 0
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
            steps=tuple(self.done),
            commands=tuple(map(CommandRun, self.plan.commands, self.answers)),
            warnings=self.warnings,
            taint=self.taint,
            failure=failure,
            seconds=time.monotonic() - started,
            dmesg=dmesg,
        )

    def _in(self, guest: Guest) -> None:
        """The steps, in order."""
        name, timeout = self.module.name, self.plan.timeout
        self.mark = guest.mark()
        self._load(guest, (*self.plan.load, *self.targets))
        self._commands(guest, "before")
        if self.plan.late_load:
            self._unload_targets(guest)
        self._load(guest, self.module.depends)
        self.patched, usual = guest.mark(), guest.tainted()
        with self._step(f"insmod {name}"):
            self._insert(guest, self.module)
        if self.module.is_livepatch:
            with self._step("transition to the new code"):
                guest.wait_transition(name, timeout)
            self._load_late(guest)
        self._commands(guest, "with")
        if self.module.is_livepatch:
            with self._step("disable, transition to the old code"):
                guest.disable_livepatch(name, timeout)
        self._unload(guest, name)
        self._commands(guest, "after")
        self._unload_targets(guest)
        for other in reversed(self.ours):
            self._unload(guest, other, must=False)
        with self._step("kernel log and taints"):
            self._judge(guest, usual)
        with self._step("power off"):
            guest.poweroff(timeout)

    # The steps

    def _load(self, guest: Guest, names: Iterable[str]) -> None:
        """Load modules with what they need, a step for each."""
        for module in self.tree.closure(names, guest.loaded()):
            with self._step(f"load {module.name}"):
                before = guest.loaded()
                guest.modprobe(module.name, timeout=self.plan.timeout)
                self.ours.extend(name for name in reversed(guest.loaded()) if name not in before)
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
        with self._step("what it patches besides vmlinux") as said:
            self.targets.extend(name for name in named if name not in self.targets and self.tree.find(name))
            said.append(", ".join(named))
        self._load(guest, self.targets)
        left = [o for o, patched in guest.livepatch_objects(self.module.name).items() if patched is False]
        if left:
            raise LoadError(f"not patched although loaded: {', '.join(left)}")

    def _unload_targets(self, guest: Guest) -> None:
        for name in [name for name in reversed(self.ours) if name in self.targets]:
            self._unload(guest, name)
            self.ours.remove(name)

    def _unload(self, guest: Guest, name: str, *, must: bool = True) -> None:
        """rmmod, of a livepatch after it is disabled; one that stays is a failure only if it `must` go."""
        with self._step(f"rmmod {name}") as said:
            if (state := guest.livepatch_state(name)) is not None and state.enabled:
                guest.disable_livepatch(name, self.plan.timeout)
            answer = guest.rmmod(name, timeout=self.plan.timeout)
            if not answer.ok and must:
                raise LoadError(f"could not be removed: {_last_line(answer.output)}")
            said.append(_last_line(answer.output))

    def _commands(self, guest: Guest, phase: str) -> None:
        for command, answers in zip(self.plan.commands, self.answers, strict=True):
            with self._step(f"{phase}: {command}") as said:
                answers[phase] = guest.run(command, timeout=self.plan.timeout)
                said.append(answers[phase].output.rstrip("\n"))

    def _judge(self, guest: Guest, usual: int) -> None:
        """A warning, or a taint beyond those of any livepatch from elsewhere, fails the trial.

        What the kernel said before the module came is none of the module's doing.
        """
        self.warnings = guest.warnings(self.patched)
        self.taint = guest.tainted()
        if self.warnings:
            raise GuestError(f"the kernel warned: {self.warnings[0]}")
        odd = [letter for letter in taints(self.taint & ~usual) if letter not in EXPECTED_TAINTS]
        if odd:
            raise GuestError(f"unexpected taint: {', '.join(f'{x} ({taint_meaning(x)})' for x in odd)}")

    @contextmanager
    def _step(self, name: str) -> Iterator[list[str]]:
        """Time a step and record it, also if it fails; the yielded list takes what is worth showing."""
        said: list[str] = []
        self.progress(name)
        started, ok = time.monotonic(), False
        try:
            yield said
            ok = True
        except BespokeError as error:
            said.append(str(error))
            raise
        finally:
            step = Step(name, ok, time.monotonic() - started, "\n".join(filter(None, said)))
            self.done.append(step)
            self.progress(step)

    def _last_words(self, guest: Guest) -> str:
        """After a failure: the log since the boot was done; the warnings since the module came."""
        log = guest.log()
        if not log.records:
            return guest.complaint()
        self.warnings = log.since(self.patched or self.mark).warnings()
        return str(log.since(self.mark))


def _refusal(answer: Answer, log: KernelLog) -> str:
    """Why the kernel would not load a module: its error, and what it said about it."""
    error = _last_line(answer.output).rpartition(": ")[2]
    said = [str(record.text) for record in log.records if not EXPECTED.search(record.text)]
    return f"the kernel refused it ({error})" + (f": {said[-1]}" if said else "")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]

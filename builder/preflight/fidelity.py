"""Does the simulated loader make what the kernel's own makes? A guest loads modules, and every byte is compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.binary.module import ModuleFile
from builder.errors import BespokeError, GuestError, LoadError
from builder.image.boot import CAPABILITY_WORDS, DECIDED, BootState
from builder.image.capture import (
    GuestMemory,
    GuestModule,
    capture_state,
    cpuid_leaves,
    guest_modules,
    tell_flags,
    where_it_is,
)
from builder.image.cpu_flags import NOT_EMULATED, Leaves
from builder.image.derive import cpu_models, derive_state
from builder.image.guest import Guest, MachineConfig
from builder.image.guest.live import batches
from builder.image.guest.modules import ModuleTree
from builder.image.simulated import SimulatedKernel
from builder.load import livepatch
from builder.load.boot import boot
from builder.load.layout import lay_out
from builder.load.loader import free_init, load_module
from builder.load.module import LoadedModule
from builder.load.passes import Context, static_call
from builder.preflight.differences import AT_RUN_TIME, ByteDifference, Compared, compare_module

BATCH = 12 << 20
"""Bytes of modules that the guest is given at once."""
CONFIG = MachineConfig(memory_mb=3072)
"""Room for hundreds of modules."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The modules that were loaded here, each compared, and why others could not be, by name."""

    compared: tuple[Compared, ...]
    failed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The outcome of one comparison; `state` is `captured` or `derived`, `refused` by the guest's kernel."""

    release: str
    cpu: str
    smp: int
    state: str
    prediction: Prediction
    state_differences: tuple[str, ...]
    refused: Mapping[str, str]
    seconds_guest: float
    seconds_simulated: float

    @property
    def modules(self) -> int:
        """Modules of the guest that were to be loaded here."""
        return len(self.prediction.compared) + len(self.failed)

    @property
    def identical(self) -> int:
        """Modules of which every byte is as the kernel made it."""
        return sum(not module.differences for module in self.prediction.compared)

    @property
    def failed(self) -> Mapping[str, str]:
        return self.prediction.failed

    @property
    def whole(self) -> Compared:
        """All modules together."""
        return Compared.of(self.prediction.compared)

    @property
    def differences(self) -> tuple[ByteDifference, ...]:
        return self.whole.differences

    @property
    def exact(self) -> bool:
        """Every byte, and the state itself; what keys became at run time cannot be derived, and is named."""
        unexplained = [d for d in self.differences if self.state == "captured" or d.step not in AT_RUN_TIME]
        return not unexplained and not self.failed and not self.state_differences and self.modules > 0

    def as_json(self) -> dict[str, object]:
        """Counts, and every difference with module, section, symbol, pass and cause."""
        whole = self.whole
        return {
            "kernel": self.release,
            "cpu": self.cpu,
            "smp": self.smp,
            "state": self.state,
            "exact": self.exact,
            "modules": self.modules,
            "identical": self.identical,
            "bytes": whole.bytes,
            "text_bytes": whole.text_bytes,
            "refused_by_guest": dict(self.refused),
            "failed": dict(self.failed),
            "state_differences": list(self.state_differences),
            "seconds_guest": round(self.seconds_guest, 3),
            "seconds_simulated": round(self.seconds_simulated, 3),
            "differences": [
                {
                    "module": d.module,
                    "section": d.section,
                    "address": f"{d.address:#x}",
                    "symbol": d.symbol,
                    "pass": d.step,
                    "ours": d.ours[:64].hex(),
                    "kernels": d.kernels[:64].hex(),
                    "cause": d.cause,
                }
                for d in whole.differences
            ],
        }


def choose(kernel: Kernel, count: int | None = 500, seed: int = 1) -> list[Path]:
    """Module files of the kernel's tree: all, or `count` of them drawn with a seed."""
    root = kernel.modules_root
    if root is None:
        raise LoadError(f"there is no module tree of {kernel.release}")
    paths = sorted(path for path in root.rglob("*.ko*") if path.name.endswith((".ko", ".ko.xz", ".ko.zst", ".ko.gz")))
    if count is None or count >= len(paths):
        return paths
    return sorted(random.Random(seed).sample(paths, count))


def in_order(kernel: Kernel, paths: Iterable[Path]) -> list[ModuleFile]:
    """The modules with what they depend on, or ask for, dependencies first."""
    found: dict[str, ModuleFile] = {}

    started: set[Path] = set()
    tree = ModuleTree(kernel)

    def visit(path: Path) -> None:
        if path in started:
            return
        started.add(path)
        module = ModuleFile.read(path)
        for name in tree.needed_by(module):
            if name not in found:
                other = kernel.find_module(name)
                if other is not None:
                    visit(other)
        found.setdefault(module.name, module)

    for path in paths:
        visit(path)
    return list(found.values())


def load_in_guest(guest: Guest, modules: Sequence[ModuleFile], say: Callable[[str], None]) -> dict[str, str]:
    """Give the guest's kernel all modules in order; name -> what it said, for those that it refused."""
    refused: dict[str, str] = {}
    given = 0
    for batch in batches(modules, BATCH):
        refused |= guest.load_batch(batch)
        given += len(batch)
        say(f"{given} of {len(modules)} modules given to the guest")
    return refused


def compare(
    kernel: Kernel,
    paths: Sequence[Path],
    config: MachineConfig = CONFIG,
    *,
    extra: Sequence[ModuleFile] = (),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Fidelity, Fidelity]:
    """Boot a guest, let it load modules, take everything out, predict the same, compare.

    Twice: with the state that the guest was found in, and with what is derived
    from image and CPU model alone. `paths` are modules of the kernel's tree (see `choose`); `extra`
    are modules of ours, loaded last, livepatches among them: those are enabled and
    disabled again, which leaves their relocations written and entries as before.
    With `config.kaslr` the guest boots at a random address, and the kernel is simulated there.
    What the emulator has not (`max,+ibt`) the guest's kernel is told once it has booted, before it loads a module.
    """
    patched = {name for module in extra for name in module.bound_objects} - {module.name for module in extra}
    needed = [path for name in sorted(patched) if (path := kernel.find_module(name)) is not None]
    wanted = [*in_order(kernel, [*paths, *needed]), *extra]
    files = {module.name: module for module in wanted}
    started = time.monotonic()
    words = config.cpu.split(",")
    emulated, told = ",".join(word for word in words if word not in NOT_EMULATED), set(words) & NOT_EMULATED
    machine = replace(config, cpu=emulated, panic_on_oops=False, cmdline=f"no_timer_check {config.cmdline}".rstrip())
    with Guest(kernel, machine) as guest:
        kernel = where_it_is(guest, kernel)
        say(f"guest up after {guest.boot_seconds:.1f} s, its kernel moved by {kernel.offset:#x}")
        tell_flags(guest, kernel, {word.removeprefix("+") for word in told})
        refused = load_in_guest(guest, wanted[: len(wanted) - len(extra)], say)
        for module in extra:
            answer = guest.insmod(module.data, module.name)
            if not answer.ok:
                refused[module.name] = answer.output.strip()
            elif module.is_livepatch:
                _finish_transition(guest, module.name)
        _disable_livepatches(guest, [module.name for module in extra if module.is_livepatch])
        found = guest_modules(guest)
        memory = GuestMemory(guest)
        state = capture_state(guest, kernel, memory)
        memory.keep_spans(_ranges(found, files))
        unknown = None if emulated in cpu_models() else cpuid_leaves(guest)
        seconds = time.monotonic() - started
    say(f"memory of {len(found)} modules taken after {seconds:.1f} s")
    outcomes = []
    for kind in ("captured", "derived"):
        started = time.monotonic()
        used = state if kind == "captured" else _derived(kernel, config, unknown)
        simulated = boot(kernel, used)
        if kind == "captured":
            simulated.keys.count_reader = lambda address: memory.number(address, 4, signed=True)
            simulated.keys.target_reader = lambda address: memory.number(address, 8)
        outcome = Fidelity(
            release=kernel.release,
            cpu=config.cpu,
            smp=config.smp,
            state=kind,
            prediction=predict(simulated, files, found, memory),
            state_differences=tuple(state_differences(kernel, used, state)),
            refused=refused,
            seconds_guest=seconds,
            seconds_simulated=time.monotonic() - started,
        )
        outcomes.append(outcome)
        say(f"{kind} state: {outcome.identical} of {outcome.modules} modules identical")
    return outcomes[0], outcomes[1]


def _derived(kernel: Kernel, config: MachineConfig, leaves: Leaves | None) -> BootState:
    """The state of that machine; `leaves` is its CPUID where the model is not known."""
    return derive_state(kernel, config.cpu, config.smp, leaves, by_bzimage=config.kaslr, cmdline=config.cmdline)


def _disable_livepatches(guest: Guest, names: Sequence[str]) -> None:
    """One transition after the other: while one is under way no other patch can be disabled."""
    folder = "/sys/kernel/livepatch"
    enabled = [name for name in names if guest.livepatch_state(name) is not None]
    for name in enabled:
        guest.check(f"echo 0 > {folder}/{name}/enabled")
        _finish_transition(guest, name)


def _finish_transition(guest: Guest, name: str) -> None:
    """Wait for it, and force it where a task sleeps in a patched function: only the bytes matter here."""
    try:
        guest.wait_transition(name, timeout=15)
    except GuestError:
        # The kernel refuses it (EINVAL) if the transition has ended in the meantime, which is as good.
        guest.run(f"echo 1 > /sys/kernel/livepatch/{name}/force")
        guest.wait_transition(name)


def state_differences(kernel: Kernel, ours: BootState, guests: BootState) -> list[str]:
    """Where two boot states decide differently, named."""
    found = []
    for word, (a, b) in enumerate(zip(ours.capabilities, guests.capabilities, strict=True)):
        for bit in range(32):
            if (a ^ b) >> bit & 1:
                kind = "feature" if word < CAPABILITY_WORDS else "bug"
                found.append(f"{kind} {word}*32+{bit}: {a >> bit & 1}, in the guest {b >> bit & 1}")
    for name in DECIDED:
        if getattr(ours, name) != getattr(guests, name):
            found.append(f"{name}: {getattr(ours, name)}, in the guest {getattr(guests, name)}")
    return found


def _ranges(modules: Iterable[GuestModule], files: Mapping[str, ModuleFile]) -> list[tuple[Address, Address]]:
    """Where the sections of each module lie."""
    out = []
    for module in modules:
        sizes = {s.name: s.size for s in files[module.name].object.sections} if module.name in files else {}
        for name, address in module.sections.items():
            if not name.startswith(".init"):
                out.append((address, address + max(sizes.get(name, 0), 8)))
    return out


def predict(
    simulated: SimulatedKernel,
    files: Mapping[str, ModuleFile],
    found: Sequence[GuestModule],
    memory: GuestMemory,
) -> Prediction:
    """Load each module at the addresses that the guest's kernel gave it, and then compare the bytes of all.

    Only then, because loading one may write to another: the stubs of call depth tracking, a livepatch's relocations.
    """
    done: list[LoadedModule] = []
    failed: dict[str, str] = {}
    percpu_at = simulated.kernel.layout("module").offset_of("percpu")
    for seen in found:
        module = files.get(seen.name)
        if module is None or not seen.sections:
            continue
        try:
            this = seen.sections.get(".gnu.linkonce.this_module")
            bases = bases_of(simulated, module, seen.sections)
            loaded = load_module(
                simulated, module, addresses=bases.__getitem__, percpu=memory.u64(this + percpu_at) if this else None
            )
            if module.is_livepatch:
                livepatch.run_init(simulated, loaded)
                livepatch.disable_patch(simulated, seen.name)
        except BespokeError as error:
            failed[seen.name] = str(error)
            continue
        static_call.follow_keys(Context(simulated, {}, (Address(0), Address(0)), loaded, step="static_call"))
        free_init(simulated, loaded)
        done.append(loaded)
    return Prediction(tuple(compare_module(simulated, loaded, memory) for loaded in done), failed)


def bases_of(simulated: SimulatedKernel, module: ModuleFile, sections: Mapping[str, Address]) -> dict[str, Address]:
    """The base of each allocation, from where the kernel put the sections; LoadError where they do not fit."""
    layout = lay_out(module, simulated.kernel.features)
    names = [section.name for section in module.object.sections]
    bases: dict[str, Address] = {}
    for index, (memory, offset, _) in layout.places.items():
        address = sections.get(names[index])
        if address is None or names.count(names[index]) > 1:
            continue
        base = bases.setdefault(memory, address - offset)
        if base != address - offset:
            raise LoadError(f"section {names[index]} is at {address:#x}, expected at {base + offset:#x}")
    for memory in layout.memories:
        if memory not in bases:
            bases[memory] = simulated.area.allocate(layout.memories[memory])
    return bases

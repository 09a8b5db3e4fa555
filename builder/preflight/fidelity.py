"""Does the simulated loader make what the kernel's own makes? A guest loads modules, and every byte is compared."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.binary import elf
from builder.binary.kernel import Kernel
from builder.binary.module import ModuleFile
from builder.errors import BespokeError, GuestError, LoadError
from builder.image import BootState, SimulatedKernel
from builder.image.boot import CAPABILITY_WORDS, DECIDED
from builder.image.capture import (
    GuestMemory,
    GuestModule,
    capture_state,
    cpuid_leaves,
    guest_modules,
    where_it_is,
)
from builder.image.cpu_flags import Leaves
from builder.image.derive import cpu_models, derive_state
from builder.image.guest import Guest, MachineConfig
from builder.image.guest.live import batches
from builder.image.guest.modules import ModuleTree
from builder.load import livepatch
from builder.load.boot import boot
from builder.load.layout import lay_out
from builder.load.loader import free_init, load_module
from builder.load.module import LoadedModule, Placed
from builder.load.passes import Context, jump_label, static_call

WRITTEN = ("__jump_table", ".static_call_sites", "__mcount_loc", "__ex_table")
"""Tables that passes write though a section of data; other data is the module's own from its init on."""
AT_RUN_TIME = {"jump_label": "static key", "static_call": "static call"}
"""Passes that follow what may change while the kernel runs: by the pass, what that is called."""
BATCH = 12 << 20
CONFIG = MachineConfig(memory_mb=3072)
"""Room for hundreds of modules."""
STUB = 16
"""Bytes of padding before a function (CONFIG_FUNCTION_PADDING_BYTES), where its stub of call depth tracking goes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Bytes of a section that are not what the kernel made.

    `step` is the pass that writes them and `cause` says of what they depend; "" where that is not known.
    """

    module: str
    section: str
    address: int
    ours: bytes
    kernels: bytes
    symbol: str
    cause: str
    step: str = ""


@dataclass(slots=True)
class Fidelity:
    """The outcome of one comparison."""

    release: str
    cpu: str
    smp: int
    modules: int = 0
    identical: int = 0
    bytes: int = 0
    text_bytes: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    seconds_guest: float = 0.0
    seconds_simulated: float = 0.0
    state: str = "captured"
    state_differences: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Every byte, and the state itself; what keys became at run time cannot be derived, and is named."""
        unexplained = [d for d in self.differences if self.state == "captured" or d.step not in AT_RUN_TIME]
        return not unexplained and not self.failed and not self.state_differences and self.modules > 0

    def as_json(self) -> dict[str, object]:
        """Counts, and every difference with module, section, symbol, pass and cause."""
        return {
            "kernel": self.release,
            "cpu": self.cpu,
            "smp": self.smp,
            "state": self.state,
            "exact": self.exact,
            "modules": self.modules,
            "identical": self.identical,
            "bytes": self.bytes,
            "text_bytes": self.text_bytes,
            "refused_by_guest": self.refused,
            "failed": self.failed,
            "state_differences": self.state_differences,
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
                for d in self.differences
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
        for name in (*map(tree.provider, module.wants), *module.depends):
            if name is not None and name not in found:
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
    """
    patched = {name for module in extra for name in module.bound_objects} - {module.name for module in extra}
    needed = [path for name in sorted(patched) if (path := kernel.find_module(name)) is not None]
    wanted = [*in_order(kernel, [*paths, *needed]), *extra]
    files = {module.name: module for module in wanted}
    started = time.monotonic()
    machine = replace(config, panic_on_oops=False, cmdline=f"no_timer_check {config.cmdline}".rstrip())
    with Guest(kernel, machine) as guest:
        kernel = where_it_is(guest, kernel)
        say(f"guest up after {guest.boot_seconds:.1f} s, its kernel moved by {kernel.offset:#x}")
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
        unknown = None if config.cpu in cpu_models() else cpuid_leaves(guest)
        seconds = time.monotonic() - started
    say(f"memory of {len(found)} modules taken after {seconds:.1f} s")
    outcomes = []
    for kind in ("captured", "derived"):
        outcome = Fidelity(kernel.release, config.cpu, config.smp, state=kind, refused=refused, seconds_guest=seconds)
        started = time.monotonic()
        used = state if kind == "captured" else _derived(kernel, config, unknown)
        simulated = boot(kernel, used)
        if kind == "captured":
            simulated.keys.count_reader = lambda address: memory.number(address, 4, signed=True)
            simulated.keys.target_reader = lambda address: memory.number(address, 8)
        outcome.state_differences += state_differences(kernel, used, state)
        predict(simulated, files, found, memory, outcome)
        outcome.seconds_simulated = time.monotonic() - started
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


def _ranges(modules: Iterable[GuestModule], files: Mapping[str, ModuleFile]) -> list[tuple[int, int]]:
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
    outcome: Fidelity,
) -> None:
    """Load each module at the addresses that the guest's kernel gave it, and then compare the bytes of all.

    Only then, because loading one may write to another: the stubs of call depth tracking, a livepatch's relocations.
    """
    done: list[LoadedModule] = []
    percpu_at = simulated.kernel.layout("module").offset_of("percpu")
    for seen in found:
        module = files.get(seen.name)
        if module is None or not seen.sections:
            continue
        outcome.modules += 1
        try:
            this = seen.sections.get(".gnu.linkonce.this_module", 0)
            bases = bases_of(simulated, module, seen.sections)
            loaded = load_module(
                simulated, module, addresses=bases.__getitem__, percpu=memory.u64(this + percpu_at) if this else None
            )
            if module.is_livepatch:
                livepatch.run_init(simulated, loaded)
                livepatch.disable_patch(simulated, seen.name)
        except BespokeError as error:
            outcome.failed[seen.name] = str(error)
            continue
        static_call.follow_keys(Context(simulated, {}, (0, 0), loaded, step="static_call"))
        free_init(simulated, loaded)
        done.append(loaded)
    for loaded in done:
        before = len(outcome.differences)
        for warning in loaded.warnings:
            outcome.differences.append(Difference(loaded.name, "", 0, b"", b"", "", warning))
        for section in loaded.sections:
            _compare_section(simulated, loaded, section, memory, outcome)
        if len(outcome.differences) == before:
            outcome.identical += 1


def bases_of(simulated: SimulatedKernel, module: ModuleFile, sections: Mapping[str, int]) -> dict[str, int]:
    """The base of each allocation, from where the kernel put the sections; LoadError where they do not fit."""
    layout = lay_out(module, simulated.kernel.features.module_memory)
    names = [section.name for section in module.object.sections]
    bases: dict[str, int] = {}
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


def compared(section: Placed) -> bool:
    """Text, read-only data and every table that a pass writes; not what is gone after init."""
    if section.kind.startswith("init") or not section.size or section.type == elf.SHT_NOBITS:
        return False
    return not section.flags & elf.SHF_WRITE or section.name in WRITTEN


def _compare_section(
    simulated: SimulatedKernel, loaded: LoadedModule, section: Placed, memory: GuestMemory, outcome: Fidelity
) -> None:
    if not compared(section):
        return
    ours, theirs = simulated.memory.read(section.address, section.size), memory.read(section.address, section.size)
    outcome.bytes += section.size
    if section.flags & elf.SHF_EXECINSTR:
        outcome.text_bytes += section.size
    if ours == theirs:
        return
    causes = Causes(simulated, loaded, memory)
    at = 0
    while at < section.size:
        if ours[at] == theirs[at]:
            at += 1
            continue
        end = at + 1
        while end < section.size and ours[end : end + 4] != theirs[end : end + 4]:
            end += 1
        address = section.address + at
        outcome.differences.append(
            Difference(
                loaded.name,
                section.name,
                address,
                ours[at:end],
                theirs[at:end],
                simulated.symbols.describe(address),
                *causes.of(address),
            )
        )
        at = end


class Causes:
    """Which static key or static call a byte of code depends on, and how the guest's differs."""

    def __init__(self, simulated: SimulatedKernel, loaded: LoadedModule, memory: GuestMemory) -> None:
        self._simulated, self._memory = simulated, memory
        self._by_code: dict[int, tuple[str, str]] = {}
        jumps, calls = loaded.section("__jump_table"), loaded.section(".static_call_sites")
        for at in range(jumps.address, jumps.end - 15, 16) if jumps else ():
            code, _, key = jump_label.ENTRY.unpack(simulated.memory.read(at, 16))
            self._add(at + code, "jump_label", (at + 8 + key) & ~3, self._key)
        for at in range(calls.address, calls.end - 7, 8) if calls else ():
            code, key = static_call.ENTRY.unpack(simulated.memory.read(at, 8))
            self._add(at + code, "static_call", (at + 4 + key) & ~3, self._call)
        symbols = simulated.symbols.of_module[loaded.name]
        for name, (trampoline, *_) in symbols.items():
            key_of = symbols.get(name.replace("__SCT__", "__SCK__", 1)) if name.startswith("__SCT__") else None
            if key_of is not None:
                self._add(trampoline, "static_call", key_of[0], self._call)

    def _add(self, code: int, step: str, key: int, value: Callable[[int], tuple[str, str]]) -> None:
        ours, theirs = value(key)
        if ours != theirs:
            name = self._simulated.symbols.describe(key).removesuffix("+0x0")
            cause = f"{AT_RUN_TIME[step]} {name}: {ours}, in the guest {theirs}"
            places = [*range(code, code + 6)]
            target = self._memory.number(key, 8) if step == "static_call" else None
            if target and self._simulated.state.counts_calls:
                places += range(target - STUB, target)  # written when a call was first sent there
            for at in places:
                self._by_code.setdefault(at, (cause, step))

    def _key(self, key: int) -> tuple[str, str]:
        ours, theirs = self._simulated.keys.count(key), self._memory.number(key, 4, signed=True)
        return ("off", "on")[ours != 0], "gone" if theirs is None else ("off", "on")[theirs != 0]

    def _call(self, key: int) -> tuple[str, str]:
        ours, theirs = self._simulated.keys.target(key), self._memory.number(key, 8)
        return self._target(ours), "gone" if theirs is None else self._target(theirs)

    def _target(self, address: int) -> str:
        return self._simulated.symbols.describe(address).removesuffix("+0x0") if address else "nothing"

    def of(self, address: int) -> tuple[str, str]:
        """The cause of a difference and the pass that follows it, "" where none is known."""
        return self._by_code.get(address, ("", ""))

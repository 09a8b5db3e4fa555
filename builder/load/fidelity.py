"""Does the simulated loader make what the kernel's own makes? A guest loads modules, and every byte is compared."""

from __future__ import annotations

import io
import random
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.binary import elf
from builder.binary.kernel import Kernel
from builder.errors import BespokeError, LoadError
from builder.image import SimulatedKernel
from builder.image.capture import GuestMemory, GuestModule, capture_state, guest_modules
from builder.image.guest import Guest
from builder.image.guest.modules import ModuleTree
from builder.load.boot import boot
from builder.load.layout import lay_out
from builder.load.loader import free_init, load_module
from builder.load.module import LoadedModule, ModuleFile, Placed
from builder.load.passes import Context, static_call

WRITTEN = ("__jump_table", ".static_call_sites", "__mcount_loc", "__ex_table")
"""Tables that passes write though a section of data; other data is the module's own from its init on."""
BATCH = 12 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """Bytes of a section that are not what the kernel made; `cause` names the pass or the symbol."""

    module: str
    section: str
    address: int
    ours: bytes
    kernels: bytes
    symbol: str
    cause: str


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


def choose(kernel: Kernel, count: int | None, seed: int = 1) -> list[Path]:
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
    batch: list[ModuleFile] = []
    size = 0
    for i, module in enumerate(modules):
        batch.append(module)
        size += len(module.data)
        if size > BATCH or i + 1 == len(modules):
            refused |= _load_batch(guest, batch)
            say(f"{i + 1} of {len(modules)} modules given to the guest")
            batch, size = [], 0
    return refused


def _load_batch(guest: Guest, batch: Sequence[ModuleFile]) -> dict[str, str]:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for module in batch:
            entry = tarfile.TarInfo(f"{module.name}.ko")
            entry.size = len(module.data)
            tar.addfile(entry, io.BytesIO(module.data))
    guest.put("/run/batch.tar", archive.getvalue(), timeout=300)
    names = " ".join(module.name for module in batch)
    answer = guest.run(
        "mkdir -p /run/batch && cd /run/batch && tar xf ../batch.tar && rm ../batch.tar && "
        f"for m in {names}; do said=$(insmod $m.ko 2>&1) || echo \"$m $said\"; rm -f $m.ko; done",
        timeout=600,
    )
    return {line.split()[0]: line.partition(" ")[2] for line in answer.output.splitlines() if line.strip()}


def compare(
    kernel: Kernel,
    *,
    cpu: str = "max",
    smp: int = 1,
    modules: int | None = 500,
    paths: Sequence[Path] | None = None,
    extra: Sequence[ModuleFile] = (),
    seed: int = 1,
    memory_mb: int = 3072,
    say: Callable[[str], None] = lambda _: None,
) -> Fidelity:
    """Boot a guest, let it load modules, take everything out, predict the same, compare."""
    wanted = [*in_order(kernel, paths if paths is not None else choose(kernel, modules, seed)), *extra]
    files = {module.name: module for module in wanted}
    outcome = Fidelity(kernel.release, cpu, smp)
    started = time.monotonic()
    with Guest(kernel, cpu=cpu, smp=smp, memory_mb=memory_mb, panic_on_oops=False) as guest:
        say(f"guest up after {guest.boot_seconds:.1f} s")
        outcome.refused = load_in_guest(guest, wanted, say)
        found = guest_modules(guest)
        memory = GuestMemory(guest)
        state = capture_state(guest, kernel, memory)
        memory.keep_spans(_ranges(found, files))
        outcome.seconds_guest = time.monotonic() - started
    say(f"memory of {len(found)} modules taken after {outcome.seconds_guest:.1f} s")
    started = time.monotonic()
    simulated = boot(kernel, state)
    predict(simulated, files, found, memory, outcome)
    outcome.seconds_simulated = time.monotonic() - started
    return outcome


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
    """Load each module at the addresses that the guest's kernel gave it, and compare the bytes."""
    simulated.key_reader = lambda address: int.from_bytes(memory.read(address, 4), "little", signed=True)
    call_reader = memory.u64
    simulated.call_reader = call_reader
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
        except BespokeError as error:
            outcome.failed[seen.name] = str(error)
            continue
        before = len(outcome.differences)
        for warning in loaded.warnings:
            outcome.differences.append(Difference(seen.name, "", 0, b"", b"", "", warning))
        context = Context(simulated, {}, (0, 0), loaded, step="static_call")
        static_call.follow_keys(context)
        for section in loaded.sections:
            _compare_section(simulated, loaded, section, memory, outcome)
        free_init(simulated, loaded)
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
            bases[memory] = simulated.allocate(layout.memories[memory])
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
    at = 0
    while at < section.size:
        if ours[at] == theirs[at]:
            at += 1
            continue
        end = at + 1
        while end < section.size and (ours[end] != theirs[end] or ours[end : end + 4] != theirs[end : end + 4]):
            end += 1
        address = section.address + at
        outcome.differences.append(
            Difference(
                loaded.name, section.name, address, ours[at:end], theirs[at:end], simulated.describe(address), ""
            )
        )
        at = end


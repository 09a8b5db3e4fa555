"""The boot state from the image and a CPU model alone: the kernel's own early code decides, executed here.

start_kernel and setup_arch call `early_cpu_init`, `parse_early_param`, `init_hypervisor_platform`
and `pti_check_boottime_disable`, arch_cpu_finalize_init
`identify_boot_cpu` and `cpu_select_mitigations` (arch/x86/kernel/setup.c,
arch/x86/kernel/cpu/common.c, v6.1 and v6.12). CPUID is answered with what the
model shows; so which features, defects and mitigations there are is not
imitated but computed by the code that computes it at boot.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import unicorn
from iced_x86 import Code, Decoder, Register
from unicorn import x86_const as x86

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.errors import LoadError, UsageError
from builder.image.boot import BUG_WORDS, CAPABILITY_WORDS, BootState
from builder.image.cpu_flags import Leaves, with_flags
from builder.image.execute import Fault, Machine
from builder.image.memory import PAGE, Region
from builder.image.simulated import SimulatedKernel

STEPS: Final = (
    ("early_cpu_init",), ("parse_early_param",), ("init_hypervisor_platform",), ("pti_check_boottime_disable",),
    ("identify_boot_cpu", "identify_cpu"), ("native_pv_lock_init",), ("cpu_select_mitigations",),
)  # fmt: skip
"""In order; of several names the first that the kernel has. Each is given boot_cpu_data, which most do not look at."""
KEYS_ON: Final = tuple(f"static_key_{how}{locked}" for how in ("enable", "slow_inc") for locked in ("", "_cpuslocked"))
KEYS_OFF: Final = tuple(name.replace("enable", "disable").replace("inc", "dec") for name in KEYS_ON)
# What needs devices or memory management, and decides no feature.
SILENT: Final = ("mcheck_cpu_init", "numa_add_cpu", "on_each_cpu_cond_mask", "x86_init_rdrand", "register_syscore_ops")
ALLOCATE: Final = (
    "kmalloc_trace", "kmalloc_trace_noprof", "__kmalloc_cache_noprof", "kmem_cache_alloc", "__alloc_percpu",
)  # fmt: skip
LOCAL_APIC: Final = 0xFFFFFFFFFF5FD000
"""Where the fixmap shows it (asm/fixmap.h, FIX_APIC_BASE)."""
LA57: Final = 16
"""The bit in ECX of CPUID leaf 7."""
WRPKRU: Final = b"\x0f\x01\xef"
MISC_ENABLE: Final = (0x1A0, 1)
"""MSR_IA32_MISC_ENABLE, with fast strings as firmware and QEMU leave it."""
SUBLEAVES: Final = frozenset((0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x1F, 0x8000001D))
BUDGET: Final = 5_000_000


@cache
def cpu_models() -> Mapping[str, Leaves]:
    """The CPU models that are known, each with its CPUID as QEMU's emulation shows it on one CPU."""
    text = files("builder.image").joinpath("cpu_models.json").read_text()
    return {
        name: {_leaf(key): tuple(int(word, 16) for word in row.split()) for key, row in rows.items()}  # type: ignore[misc]
        for name, rows in json.loads(text).items()
    }


def cpu_model(cpu: str) -> Leaves:
    """The CPUID of the model that `cpu` names, without its flags; UsageError, with what is known, for another."""
    model = cpu.split(",")[0]
    known = cpu_models()
    if model not in known:
        raise UsageError(f"unknown CPU model {model!r}; known are {', '.join(sorted(known))}")
    return known[model]


def _leaf(key: str) -> tuple[int, int]:
    leaf, _, sub = key.partition(".")
    return int(leaf, 16), int(sub, 16)


def with_cpus(leaves: Leaves, cpus: int) -> Leaves:
    """The same model where there are several CPUs of one package (target/i386/cpu.c of QEMU)."""
    if cpus == 1:
        return leaves
    found = dict(leaves)
    a, b, c, d = found[1, 0]
    found[1, 0] = (a, b & 0xFF00FFFF | cpus << 16, c, d | 1 << 28)  # HTT
    if (0x80000001, 0) in found and found[0, 0][1:] != _vendor("GenuineIntel"):
        a, b, c, d = found[0x80000001, 0]
        found[0x80000001, 0] = (a, b, c | 2, d)  # CMP_LEGACY
    if (0x80000008, 0) in found:
        a, b, c, d = found[0x80000008, 0]
        found[0x80000008, 0] = (a, b, c & ~0xFF | cpus - 1, d)
    return found


def _vendor(text: str) -> tuple[int, int, int]:
    b, d, c = struct.unpack("<3I", text.encode())
    return b, c, d


def derive_state(
    kernel: Kernel,
    cpu: str = "max",
    cpus: int = 1,
    leaves: Leaves | None = None,
    *,
    by_bzimage: bool = False,
    cmdline: str = "",
) -> BootState:
    """The boot state on a CPU model with so many CPUs; `leaves` instead of a known model.

    `cpu` may go on with flags that are added or taken away, as QEMU and /proc/cpuinfo spell them:
    `Skylake-Server,+ibt`. `cmdline` is the kernel's command line, of which `mitigations=off`,
    `retbleed=stuff`, ... are obeyed.

    `by_bzimage` says that the decompressor ran, which turns on five-level paging where the CPU has it
    (paging_prepare, arch/x86/boot/compressed/pgtable_64.c, v6.1); a PVH start leaves it off.
    Raises UsageError for an unknown model and LoadError where the kernel's code cannot be executed.
    """
    leaves = with_flags(kernel, cpu_model(cpu) if leaves is None else leaves, cpu.split(",")[1:])
    simulated = SimulatedKernel(kernel, BootState(cpu, (0,) * (CAPABILITY_WORDS + BUG_WORDS), Address(0)))
    keys: dict[Address, int] = {}
    calls: dict[Address, Address] = {}
    machine = _prepare(simulated, with_cpus(leaves, cpus), keys, calls)
    if by_bzimage and leaves.get((7, 0), (0, 0, 0, 0))[2] >> LA57 & 1:
        flag = simulated.symbols.address("__pgtable_l5_enabled")
        if flag is not None:
            machine.write(flag, struct.pack("<I", 1))
    if cmdline:
        _give_cmdline(simulated, machine, cmdline)
    for names in STEPS:
        step = next((name for name in names if simulated.symbols.address(name) is not None), None)
        if step is not None:
            try:
                machine.run(
                    simulated.symbols.address(step) or Address(0), (kernel.symbol("boot_cpu_data").address,), BUDGET
                )
            except Fault as fault:
                raise LoadError(f"{step} cannot be executed for CPU model {cpu}: {fault}", where=kernel.path) from fault
    preemption = preemption_of(kernel)
    if preemption is not None:
        machine.run(preemption[0], (preemption[1],), BUDGET)
    return _read(simulated, cpu, cpus, keys, calls)


def _give_cmdline(simulated: SimulatedKernel, machine: Machine, cmdline: str) -> None:
    """Where setup_arch puts it; UsageError for one that is too long (COMMAND_LINE_SIZE, asm/setup.h)."""
    line = cmdline.encode("utf-8", "surrogateescape") + b"\0"
    room = simulated.kernel.size_of(simulated.kernel.symbol("boot_command_line"))
    if len(line) > room:
        raise UsageError(f"a command line of {len(line) - 1} bytes, where the kernel takes {room - 1}")
    machine.write(simulated.kernel.symbol("boot_command_line").address, line)


def preemption_of(kernel: Kernel) -> tuple[Address, int] | None:
    """The function that sets the mode of preemption and the mode that the kernel was built for, None without.

    preempt_dynamic_init (kernel/sched/core.c, v5.12) is part of sched_init once compiled: there the
    mode is the constant that [__]sched_dynamic_update is called with.
    """
    names = ("sched_dynamic_update", "__sched_dynamic_update")
    setters = {symbol.address for name in names for symbol in kernel.symbols_named(name)}
    starts = kernel.symbols_named("preempt_dynamic_init") or kernel.symbols_named("sched_init")
    if not setters or not starts:
        return None
    mode: int | None = None
    code = kernel.read(starts[0].address, kernel.size_of(starts[0]))
    for instruction in Decoder(64, code, ip=starts[0].address):
        if instruction.code == Code.MOV_R32_IMM32 and instruction.op0_register == Register.EDI:
            mode = instruction.immediate32
        elif instruction.code == Code.XOR_RM32_R32 and instruction.op0_register == Register.EDI:
            mode = 0
        elif instruction.is_call_near and instruction.near_branch_target in setters and mode is not None:
            return Address(instruction.near_branch_target), mode
    return None


def _prepare(
    simulated: SimulatedKernel, leaves: Leaves, keys: dict[Address, int], calls: dict[Address, Address]
) -> Machine:
    def set_key(count: int) -> Any:
        def stub(machine: Machine) -> int:
            key = machine.pointer(0)
            keys[key] = count
            machine.write(key, struct.pack("<i", count))
            return 0

        return stub

    def set_call(machine: Machine) -> int:
        key, target = machine.pointer(0), machine.pointer(2)
        calls[key] = target
        machine.write(key, struct.pack("<Q", target))
        return 0

    def allocate(_: Machine) -> int:
        return simulated.execution.heap.allocate(2 * PAGE, PAGE)

    stubs: dict[str | Address, Any] = dict(simulated.execution.stubs)
    stubs |= dict.fromkeys(KEYS_ON, set_key(1)) | dict.fromkeys(KEYS_OFF, set_key(0))
    stubs["__static_call_update"] = set_call
    stubs |= dict.fromkeys(SILENT, lambda _: 0)
    stubs |= dict.fromkeys(ALLOCATE, allocate)
    if simulated.symbols.address("ibt_selftest") is not None:
        # It provokes a control protection exception, which is not emulated: 0, as from a CPU that has IBT
        # (setup_cet, arch/x86/kernel/cpu/common.c, v6.12).
        stubs["ibt_selftest"] = lambda _: 0
    simulated.memory.add(Region(Address(LOCAL_APIC & ~(PAGE - 1)), bytearray(PAGE), "apic[0]", "rw"))
    machine = simulated.execution.processor(stubs)
    machine.write_msr(*MISC_ENABLE)

    def cpuid(_uc: Any, _data: Any) -> int:
        leaf, sub = machine.register("eax"), machine.register("ecx")
        words = leaves.get((leaf, sub if leaf in SUBLEAVES else 0), (0, 0, 0, 0))
        for name, word in zip(("rax", "rbx", "rcx", "rdx"), words, strict=True):
            machine.set_register(name, word)
        return 1

    def read_port(_uc: Any, _port: int, size: int, _data: Any) -> int:
        return (1 << 8 * size) - 1  # nothing answers

    def invalid(_uc: Any, _data: Any) -> bool:
        at = Address(machine.register("rip"))
        if machine.read(at, 3) != WRPKRU:
            return False
        machine.set_register("rip", at + 3)  # of no consequence without user space
        return True

    machine.on_instruction(x86.UC_X86_INS_CPUID, cpuid)
    machine.on_instruction(x86.UC_X86_INS_IN, read_port)
    machine.on_event(unicorn.unicorn_const.UC_HOOK_INSN_INVALID, invalid)
    return machine


def _read(
    simulated: SimulatedKernel, cpu: str, cpus: int, keys: dict[Address, int], calls: dict[Address, Address]
) -> BootState:
    kernel, memory = simulated.kernel, simulated.memory
    at = kernel.symbol("boot_cpu_data").address + kernel.layout("cpuinfo_x86").offset_of("x86_capability")
    words = struct.unpack(f"<{CAPABILITY_WORDS + BUG_WORDS}I", memory.read(at, 4 * (CAPABILITY_WORDS + BUG_WORDS)))
    thunk, operations = simulated.symbols.address("x86_return_thunk"), simulated.symbols.address("pv_ops")
    count = kernel.layout("paravirt_patch_template").size // 8 if operations is not None else 0
    return BootState(
        cpu=cpu,
        capabilities=words,
        return_thunk=memory.pointer(thunk) if thunk is not None else Address(0),
        pv_ops=struct.unpack(f"<{count}Q", memory.read(operations, 8 * count)) if operations is not None else (),
        possible_cpus=cpus,
        uniproc=kernel.features.smp_locks and cpus == 1,
        static_keys=keys,
        static_calls=calls,
    )

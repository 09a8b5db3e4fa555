# Unicorn's own annotations are partial, and it does not name what it exports.
# mypy: disable-error-code="no-untyped-call, attr-defined, unused-ignore"
"""Execution of kernel code in the simulated kernel, by Unicorn, on the kernel's own memory.

Regions are mapped where they are, not copied: what the code writes is in
that memory afterwards. What needs a running machine (allocation, sleeping,
the console) is answered by stubs; anything else that faults is reported by
symbol and instruction.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import unicorn
from unicorn import x86_const as x86

from builder.arch.x86_64 import X86_64
from builder.binary import Address
from builder.errors import LoadError
from builder.image.extable import fixup
from builder.image.memory import PAGE, U64, Memory, Region, room

STACK, STACK_SIZE = Address(0xFFFFC90000000000), 4 * PAGE
HEAP, HEAP_SIZE = Address(0xFFFF888010000000), 16 << 20
MOST_FIXUPS = 1000
PERCPU, RETURN = Address(0xFFFF88803FC00000), Address(0xFFFFC90000100000)
ARGUMENTS: Final = (
    x86.UC_X86_REG_RDI, x86.UC_X86_REG_RSI, x86.UC_X86_REG_RDX,
    x86.UC_X86_REG_RCX, x86.UC_X86_REG_R8, x86.UC_X86_REG_R9,
)  # fmt: skip
Stub = Callable[["Machine"], int | None]
Argument = int | bytes | str


class Symbols(Protocol):
    """What a processor asks of the symbols of the code that it runs."""

    def address(self, name: str) -> Address | None:
        """The first symbol of the kernel of that name, None where there is none."""

    def find_function(self, name: str) -> Address:
        """The only symbol of that name; LoadError where there is none or several."""

    def describe(self, address: Address) -> str:
        """An address by the symbol that it lies in."""


ExceptionTables = Callable[[], Iterable[range]]
"""The addresses of each exception table at the time of the call, the image's first."""


class Fault(LoadError):
    """Code that could not go on: `address` of the instruction, `symbol` it lies in, `instruction` as text."""

    def __init__(self, message: str, address: Address, symbol: str, instruction: str) -> None:
        super().__init__(f"{message} at {symbol}: {instruction}")
        self.address = address
        self.symbol = symbol
        self.instruction = instruction


@dataclass(frozen=True, slots=True)
class Result:
    """What a call left: the whole of RAX, and how many instructions it took (None where not counted)."""

    value: int
    instructions: int | None = None

    def __int__(self) -> int:
        return self.value

    @property
    def signed(self) -> int:
        """The value as a C long."""
        return self.value - (1 << 64) if self.value >> 63 else self.value

    @property
    def int32(self) -> int:
        """The value as a C int."""
        low = self.value & 0xFFFFFFFF
        return low - (1 << 32) if low >> 31 else low


class Machine:
    """One processor on the memory of a simulated kernel; made anew whenever that memory is rearranged."""

    def __init__(
        self,
        memory: Memory,
        symbols: Symbols,
        exception_tables: ExceptionTables,
        stubs: Mapping[str | Address, Stub],
    ) -> None:
        self._memory = memory
        self._symbols = symbols
        self._exception_tables = exception_tables
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._uc.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)  # has SMAP and PKU, which kernel code toggles
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self._kept: list[Any] = []
        for region in memory:
            self._map(region)
        self._uc.mem_map(RETURN, PAGE)
        self._stubs: dict[int, tuple[str, Stub]] = {}
        self._problem: Exception | None = None
        self._stop_requested = False
        self.hooks: list[Any] = []
        for name, stub in stubs.items():
            address = name if isinstance(name, int) else symbols.address(name)
            if address is not None and memory.find(address) is not None:
                self._stubs[address] = (str(name), stub)
                self._uc.hook_add(unicorn.UC_HOOK_CODE, self._on_stub, begin=address, end=address)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid)
        self._invalid = ""
        # A per-CPU variable is at GS base + its address: its offset in the area, or (v6.16) where it was linked
        # (arch/x86/kernel/vmlinux.lds.S, PERCPU_SECTION instead of PERCPU_VADDR at 0).
        linked = symbols.address("__per_cpu_start") or Address(0)
        self._uc.reg_write(x86.UC_X86_REG_GS_BASE, PERCPU - linked & U64)

    def _map(self, region: Region) -> None:
        if region.base < PAGE * 64:
            return  # the template of the per-CPU area is no memory of a running kernel
        holder = (ctypes.c_char * len(region.data)).from_buffer(region.data)
        self._kept.append(holder)
        self._uc.mem_map_ptr(region.base, len(region.data), unicorn.UC_PROT_ALL, ctypes.addressof(holder))

    # What stubs use

    def argument(self, number: int) -> int:
        """The argument of the function that a stub stands for, from 0."""
        if number < len(ARGUMENTS):
            return int(self._uc.reg_read(ARGUMENTS[number]))
        stack = Address(self.register("rsp"))
        return int.from_bytes(self.read(stack + 8 * (number - len(ARGUMENTS) + 1), 8), "little")

    def pointer(self, number: int) -> Address:
        """An argument that is an address."""
        return Address(self.argument(number))

    def register(self, name: str) -> int:
        """A general register, `rip` or `eflags`."""
        return int(self._uc.reg_read(getattr(x86, f"UC_X86_REG_{name.upper()}")))

    def set_register(self, name: str, value: int) -> None:
        self._uc.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value & U64)

    def read(self, address: Address, size: int) -> bytes:
        return bytes(self._uc.mem_read(address, size))

    def write(self, address: Address, data: bytes) -> None:
        self._uc.mem_write(address, data)

    def string(self, address: Address, limit: int = 4096) -> str:
        """The NUL-terminated text at `address`."""
        return self._memory.string(address, limit)

    def stop(self) -> None:
        """End the call that runs, as if it had returned 0."""
        self._stop_requested = True
        self._uc.emu_stop()

    # Execution

    def trace(self, callback: Callable[[Address, int], None], start: Address, end: Address) -> None:
        """Call back with (address, size) before each instruction in [start, end); before the first run only."""

        def hook(_uc: Any, address: Address, size: int, _data: Any) -> None:
            callback(address, size)

        self.hooks.append(hook)
        self._uc.hook_add(unicorn.UC_HOOK_CODE, hook, begin=start, end=end - 1)

    def on_instruction(self, kind: int, callback: Callable[..., Any]) -> None:
        """Answer an instruction that leaves the processor (CPUID and the like), by Unicorn's number for it."""
        self.hooks.append(callback)
        self._uc.hook_add(unicorn.UC_HOOK_INSN, callback, None, 1, 0, kind)

    def on_event(self, kind: int, callback: Callable[..., Any]) -> None:
        """Any other hook of Unicorn's, by its number."""
        self.hooks.append(callback)
        self._uc.hook_add(kind, callback)

    def write_msr(self, number: int, value: int) -> None:
        """Set a model-specific register."""
        self._uc.msr_write(number, value)

    def run(self, address: Address, arguments: Sequence[int], budget: int) -> Result:
        """Call a function. Raises Fault where it cannot go on or takes more than `budget` instructions."""
        uc = self._uc
        for name in X86_64.registers:
            self.set_register(name, 0)
        stack = STACK + STACK_SIZE - 256
        extra = arguments[len(ARGUMENTS) :]
        stack -= 8 * len(extra) + 8 * (len(extra) % 2)
        for i, value in enumerate(extra):
            uc.mem_write(stack + 8 * i, struct.pack("<Q", value & U64))
        stack -= 8
        uc.mem_write(stack, struct.pack("<Q", RETURN))
        self.set_register("rsp", stack)
        for register, value in zip(ARGUMENTS, arguments, strict=False):
            uc.reg_write(register, value & U64)
        self._problem, self._stop_requested = None, False
        for _ in range(MOST_FIXUPS):  # each time round, an access has failed and the code goes on elsewhere
            self._invalid = ""
            try:
                uc.emu_start(address, RETURN, count=budget)
                break
            except unicorn.UcError as error:
                if self._problem is not None:
                    raise self._problem from None
                after = self._fixup(Address(self.register("rip"))) if self._invalid else None
                if after is None:
                    raise self._fault(self._invalid or str(error).partition(" (")[0]) from None
                address, known = after
                for name, value in known.items():
                    self.set_register(name, value)
        else:
            raise self._fault(f"{MOST_FIXUPS} accesses have failed")
        if self._problem is not None:
            raise self._problem
        if self._stop_requested:
            return Result(0)
        if self.register("rip") != RETURN:
            raise self._fault(f"not done after {budget} instructions")
        return Result(self.register("rax"))

    def _fixup(self, address: Address) -> tuple[Address, dict[str, int]] | None:
        return fixup(self._memory, self._exception_tables(), address, self._symbols.describe)

    def _fault(self, message: str) -> Fault:
        address = Address(self.register("rip"))
        try:
            code = self.read(address, 15)
        except unicorn.UcError:
            code = b""
        return Fault(message, address, self._symbols.describe(address), disassemble(code, address))

    def _on_stub(self, uc: Any, address: Address, _size: int, _data: Any) -> None:
        _, stub = self._stubs[address]
        try:
            value = stub(self)
        except Exception as problem:  # must not pass through Unicorn's C code
            self._problem = problem
            uc.emu_stop()
            return
        if self._stop_requested:
            return
        stack = Address(self.register("rsp"))
        back = int.from_bytes(self.read(stack, 8), "little")
        self.set_register("rax", value or 0)
        self.set_register("rsp", stack + 8)
        self.set_register("rip", back)

    def _on_invalid(self, _uc: Any, access: int, address: Address, size: int, _value: int, _data: Any) -> bool:
        kinds = {
            unicorn.UC_MEM_READ_UNMAPPED: "read",
            unicorn.UC_MEM_WRITE_UNMAPPED: "write",
            unicorn.UC_MEM_FETCH_UNMAPPED: "jump",
        }
        self._invalid = f"{kinds.get(access, 'access')} of {size} bytes at {address:#x}, which is not mapped,"
        return False


def disassemble(code: bytes, address: Address) -> str:
    """One instruction as text, `(bad)` where there is none."""
    import capstone  # here, for only code that fails is read

    reader = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for instruction in reader.disasm(code, address, count=1):
        return f"{instruction.mnemonic} {instruction.op_str}".strip()
    return "(bad)"


class Heap:
    """Memory for arguments and for what stubs of the allocator give; never given back but as a whole."""

    def __init__(self) -> None:
        self.region = Region(HEAP, room(HEAP_SIZE), "heap[0]", "rw")
        self._used = 0

    def allocate(self, size: int, align: int = 16) -> Address:
        at = self._used + -self._used % align
        if at + size > HEAP_SIZE:
            raise LoadError(f"the simulated heap of {HEAP_SIZE} bytes is used up")
        self._used = at + max(size, 1)
        return HEAP + at

    def put(self, data: bytes) -> Address:
        at = self.allocate(len(data))
        self.region.data[at - HEAP : at - HEAP + len(data)] = data
        return at

    def clear(self) -> None:
        """Forget everything that was allocated."""
        self.region.data[: self._used] = bytes(self._used)
        self._used = 0


def default_stubs(heap: Heap, console: list[str]) -> dict[str | Address, Stub]:
    """What kernel code calls that needs a booted kernel, as far as it can be answered without one.

    `console` is given the formats of what is printed.
    """

    def nothing(_: Machine) -> int:
        return 0

    def allocate(size_at: int) -> Stub:
        def stub(machine: Machine) -> int:
            return heap.allocate(machine.argument(size_at), 16)

        return stub

    def say(machine: Machine) -> int:
        console.append(machine.string(machine.pointer(0)))
        return 0

    def die(machine: Machine) -> int:
        raise LoadError(f"panic: {machine.string(machine.pointer(0))}")

    silent = (
        "kfree",
        "vfree",
        "kvfree",
        "mutex_lock",
        "mutex_unlock",
        "mutex_lock_interruptible",
        "down_read",
        "up_read",
        "down_write",
        "up_write",
        "__cond_resched",
        "__might_sleep",
        "__might_resched",
        "synchronize_rcu",
        "rcu_barrier",
        "dump_stack",
        "__warn_printk",
        "add_taint",
        "schedule",
        "msleep",
        "usleep_range_state",
    )
    return {
        **{name: nothing for name in silent},
        **{name: allocate(0) for name in ("__kmalloc", "__kmalloc_noprof", "__kmalloc_node", "vmalloc", "vzalloc")},
        "_printk": say,
        "printk": say,
        "panic": die,
    }


class Execution:
    """Calls of kernel code: the processor, the memory that arguments are put in, the functions that Python answers.

    `console` holds the formats that were given to printk, in order.
    """

    def __init__(self, memory: Memory, symbols: Symbols, exception_tables: ExceptionTables) -> None:
        self._memory = memory
        self._symbols = symbols
        self._exception_tables = exception_tables
        self._machine: tuple[int, Machine] | None = None
        self.console: list[str] = []
        self.heap = Heap()
        self.stubs = default_stubs(self.heap, self.console)

    def call(self, function: str | Address, *arguments: Argument, budget: int = 1_000_000) -> Result:
        """Call a function by name or address with at most `budget` instructions.

        Bytes and text (NUL-terminated) are put into memory and given by address.
        Raises Fault, by symbol and instruction, where the code cannot go on.
        """
        values = [self.argument(value) for value in arguments]
        return self.machine().run(self._address(function), values, budget)

    def argument(self, value: Argument) -> int:
        """A number as it is; bytes and text by the address that they are put at."""
        if isinstance(value, int):
            return value
        return self.heap.put(value if isinstance(value, bytes) else value.encode() + b"\0")

    def stub(self, function: str | Address, answer: Stub) -> None:
        """Let Python answer calls of a function; what it returns is the function's value."""
        self.stubs[self._address(function)] = answer
        self.reset()

    @contextmanager
    def answering(self, function: str | Address, answer: Stub) -> Iterator[None]:
        """Let Python answer calls of a function for a while."""
        address = self._address(function)
        before = self.stubs.get(address)
        self.stub(address, answer)
        try:
            yield
        finally:
            del self.stubs[address]
            if before is not None:
                self.stubs[address] = before
            self.reset()

    def _address(self, function: str | Address) -> Address:
        return self._symbols.find_function(function) if isinstance(function, str) else function

    def reset(self) -> None:
        """Have the next call begin with a new processor."""
        self._machine = None

    def machine(self) -> Machine:
        """The processor; a new one after memory was mapped or written from outside."""
        if self._machine is None or self._machine[0] != self._memory.generation:
            self._machine = (self._memory.generation, self.processor(self.stubs))
        return self._machine[1]

    def processor(self, stubs: Mapping[str | Address, Stub]) -> Machine:
        """A processor of its own, with other functions answered."""
        return Machine(self._memory, self._symbols, self._exception_tables, stubs)

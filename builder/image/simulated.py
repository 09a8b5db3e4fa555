"""A kernel in memory, without a machine: its image at its real addresses, its state, its modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.image.area import PERCPU_RESERVE, ModuleArea, PercpuReserve
from builder.image.boot import BootState
from builder.image.execute import PERCPU, STACK, STACK_SIZE, Argument, Execution, Result
from builder.image.facts import CodeFacts
from builder.image.kept import KeptModule, Livepatch, Redirection
from builder.image.keys import StaticKeys
from builder.image.memory import PAGE, Memory, Region, room
from builder.image.symbols import SimulatedSymbols


class SimulatedKernel:
    """The memory of a kernel, and what its module loader keeps of it.

    Made by `builder.load.boot`, which patches the image as early boot does. `memory` holds the image as linked (no
    KASLR offset) and all modules; `area` and `percpu` give modules their room in it. `symbols` are names and
    addresses, `facts` what the kernel's own code does, `keys` what static keys and calls hold, and `execution`
    runs code. `modules` maps names to what is loaded, in order of loading; `redirections` are by the address of the
    old function, and `ftrace` is where functions of the image can be traced, in order.
    """

    def __init__(self, kernel: Kernel, state: BootState) -> None:
        self.kernel = kernel
        self.state = state
        self.facts = CodeFacts(kernel, state)
        self.memory = Memory()
        for region in _image(kernel):
            self.memory.add(region)
        self.symbols = SimulatedSymbols(kernel, self.memory)
        self.keys = StaticKeys(state, self.memory)
        self.execution = Execution(self.memory, self.symbols, self.exception_tables)
        for region in (
            self.execution.heap.region,
            Region(STACK, bytearray(STACK_SIZE), "stack[0]", "rw"),
            Region(PERCPU, self._percpu_area(), "percpu[0]", "rw"),
        ):
            self.memory.add(region)
        self.area = ModuleArea(self.memory)
        self.percpu = PercpuReserve(self.symbols.address("__per_cpu_end") or 0)
        self.modules: dict[str, KeptModule] = {}
        self.livepatches: list[Livepatch] = []
        self.redirections: dict[Address, Redirection] = {}
        self.ftrace: Sequence[Address] = ()

    def _percpu_area(self) -> bytearray:
        """That of the only CPU: the template, then the reserve for modules."""
        start, end = self.symbols.address("__per_cpu_start"), self.symbols.address("__per_cpu_end")
        area = bytearray((end or 0) - (start or 0) + PAGE + PERCPU_RESERVE)
        if start is not None and end is not None and end > start:
            area[: end - start] = self.memory.read(start, end - start)
        return area + bytes(-len(area) % PAGE)

    def call(self, function: str | Address, *arguments: Argument, budget: int = 1_000_000) -> Result:
        """Call a function by name or address; see Execution.call."""
        return self.execution.call(function, *arguments, budget=budget)

    def exception_tables(self) -> Iterator[range]:
        """The addresses of the image's exception table, then of those of the modules."""
        start, stop = self.symbols.address("__start___ex_table"), self.symbols.address("__stop___ex_table")
        if start is not None and stop is not None:
            yield range(start, stop)
        for module in self.modules.values():
            section = module.section("__ex_table")
            if section is not None:
                yield range(section.address, section.end)

    def ftrace_of(self, module: str) -> Sequence[Address]:
        """Where functions of a module, or of vmlinux, can be traced; in order."""
        loaded = self.modules.get(module)
        return loaded.ftrace if loaded is not None else self.ftrace

    def forget(self, loaded: KeptModule) -> None:
        """Take a module out: its memory, its symbols, its exports, its uses of others."""
        self.modules.pop(loaded.name, None)
        self.symbols.forget(loaded.name)
        for other in self.modules.values():
            other.users.discard(loaded.name)
        mapped = list(self.memory)
        for region in loaded.regions:
            if any(region is other for other in mapped):
                self.memory.remove(region)
                self.area.release(region.base, len(region.data))
        if loaded.percpu is not None:
            self.percpu.release(loaded.percpu)


def _image(kernel: Kernel) -> Iterator[Region]:
    for number, segment in enumerate(kernel.segments):
        if segment.size:
            data = room(segment.size)
            kernel.image.fill(data, segment)
            flags = "".join(letter for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if segment.flags & bit)
            yield Region(segment.address, data, f"vmlinux[{number}]", flags)

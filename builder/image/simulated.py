"""A kernel in memory, without a machine: its image at its real addresses, its state, its modules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from builder.binary.kernel import Export, Kernel, KernelSymbol
from builder.errors import KernelError, LoadError, UnknownError
from builder.image.boot import BootState
from builder.image.execute import PERCPU, STACK, STACK_SIZE, Argument, Heap, Machine, Result, Stub, default_stubs
from builder.image.memory import PAGE, Memory, Region

# arch/x86/include/asm/pgtable_64_types.h: MODULES_VADDR with CONFIG_RANDOMIZE_BASE, and MODULES_END.
MODULES_START: Final = 0xFFFFFFFFC0000000
MODULES_END: Final = 0xFFFFFFFFFF000000
# include/linux/percpu.h: PERCPU_MODULE_RESERVE
PERCPU_RESERVE: Final = 8 << 10


@dataclass(frozen=True, slots=True)
class ModuleExport:
    """A symbol that a loaded module exports."""

    name: str
    address: int
    crc: int | None
    gpl: bool
    namespace: str
    owner: str


class SimulatedKernel:
    """The memory of a kernel, and what its module loader keeps of it.

    Made by `builder.load.boot`, which patches the image as early boot does.
    `memory` holds the image as linked (no KASLR offset) and all modules.
    `modules` maps names to what `builder.load` keeps of each, in order of loading.
    """

    def __init__(self, kernel: Kernel, state: BootState) -> None:
        self.kernel = kernel
        self.state = state
        self.memory = Memory()
        self._map_image()
        self.heap = Heap()
        self.memory.add(self.heap.region)
        self.memory.add(Region(STACK, bytearray(STACK_SIZE), "stack[0]", "rw"))
        self.memory.add(Region(PERCPU, self._percpu_area(), "percpu[0]", "rw"))
        self.stubs: dict[str | int, Stub] = default_stubs(self.heap)
        self.console: list[str] = []
        """Formats that were given to printk, in order."""
        self._machine: tuple[int, Machine] | None = None
        self._next_module = MODULES_START
        self._free: list[tuple[int, int]] = []
        self._percpu_taken: dict[int, int] = {}
        self.modules: dict[str, Any] = {}
        self.livepatches: list[Any] = []
        self.redirections: dict[int, Any] = {}
        """By address of the old function; kept by `builder.load.livepatch`."""
        self.module_exports: dict[str, ModuleExport] = {}
        self._indexes: dict[str, tuple[list[int], list[str]]] = {}
        self.symbols_of: dict[str, Mapping[str, tuple[int, ...]]] = {}
        self.key_reader: Callable[[int], int | None] | None = None
        """Where given, asked for the count of a static key that is not in the state (see `static_key`)."""
        self.call_reader: Callable[[int], int | None] | None = None
        """The same for where a static call goes."""
        self.changed: set[int] = set()
        """Static keys and calls that were changed since boot: memory tells."""
        self.ftrace: Sequence[int] = ()
        self.counts: dict[str, int] = {}
        self.warnings: tuple[str, ...] = ()

    def _map_image(self) -> None:
        for number, segment in enumerate(self.kernel.segments):
            if not segment.size:
                continue
            data = bytearray(self.kernel.read(segment.address, segment.size))
            flags = "".join(letter for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if segment.flags & bit)
            data += bytes(-len(data) % PAGE)
            self.memory.add(Region(segment.address, data, f"vmlinux[{number}]", flags))

    # What this kernel's own code does, told by its structures

    @cached_property
    def text(self) -> tuple[int, int]:
        """_stext to _etext."""
        return self.kernel.text_range()

    @cached_property
    def _init(self) -> tuple[int, int]:
        return self.kernel.init_text_range()

    def in_init(self, address: int) -> bool:
        """init_section_contains(), for code."""
        return self._init[0] <= address < self._init[1]

    @cached_property
    def alternative_size(self) -> int:
        """Bytes of struct alt_instr: 12, or 14 with flags (6.3)."""
        size = self.kernel.layout("alt_instr").size
        if size not in (12, 14):
            raise UnknownError(f"struct alt_instr of {size} bytes", where=self.kernel.path)
        return size

    @cached_property
    def longest_nop(self) -> int:
        """ASM_NOP_MAX: x86_nops[] has one pointer more."""
        found = self.kernel.size_of(self.symbol("x86_nops")) // 8 - 1
        return min(found, 11) if found >= 8 else 8

    @cached_property
    def sorts_pairs(self) -> bool:
        """Whether sort() takes two elements at a time from its heap (lib/sort.c, v6.11); it leaves no other trace."""
        major, minor = self.kernel.release.split(".")[:2]
        return (int(major), int("".join(c for c in minor if c.isdigit()))) >= (6, 11)

    @cached_property
    def has_its(self) -> bool:
        """X86_FEATURE_INDIRECT_THUNK_ITS, another bit in each series (asm/cpufeatures.h, v6.1.139, v6.12.29)."""
        if not self.kernel.symbols_named("its_return_thunk"):
            return False
        return self.state.has(21 * 32 + (6 if self.kernel.features.module_memory else 5))

    @cached_property
    def orc_ends_section(self) -> Callable[[int, int], bool]:
        """Whether an ORC entry, by its fifth and sixth byte, ends a section (orc_sort_cmp, kernel/unwind_orc.c)."""
        layout = self.kernel.layout("orc_entry")

        def bits(name: str) -> tuple[int, int]:
            member = layout.member(name)
            if member.bit_offset is None or member.bit_size is None:
                raise UnknownError(f"struct orc_entry with a {name} that is no bit-field", where=self.kernel.path)
            return member.bit_offset - 32, (1 << member.bit_size) - 1

        if layout.has("end"):  # to 6.3
            (sp_at, sp), (end_at, end) = bits("sp_reg"), bits("end")

            def ends(low: int, high: int) -> bool:
                value = low | high << 8
                return not value >> sp_at & sp and not value >> end_at & end
        else:
            kind_at, kind = bits("type")

            def ends(low: int, high: int) -> bool:
                return not (low | high << 8) >> kind_at & kind

        return ends

    @cached_property
    def trampoline_keys(self) -> Mapping[int, int]:
        """Trampoline of a static call that is not exported -> its key (struct static_call_tramp_key)."""
        start, stop = (self.address(f"__{side}_static_call_tramp_key") for side in ("start", "stop"))
        if start is None or stop is None:
            return {}
        found = {}
        for at in range(start, stop - 7, 8):
            found[at + self.memory.s32(at)] = at + 4 + self.memory.s32(at + 4)
        return found

    # Symbols

    def export(self, name: str) -> Export | ModuleExport | None:
        """What find_symbol() finds: vmlinux's exports first, then those of loaded modules."""
        return self.kernel.exports().get(name) or self.module_exports.get(name)

    def symbol_position(self, module: str | None, name: str, sympos: int) -> int:
        """The address that klp_find_object_symbol (kernel/livepatch/core.c) finds; LoadError with its words."""
        if module is None:
            found: tuple[int, ...] = tuple(s.address for s in self.kernel.symbols_named(name))
        else:
            found = self.symbols_of.get(module, {}).get(name, ())
        if not found:
            raise LoadError(f"symbol '{name}' not found in symbol table of {module or 'vmlinux'}")
        if sympos == 0:
            if len(found) > 1:
                raise LoadError(f"unresolvable ambiguity for symbol '{name}' in object '{module or 'vmlinux'}'")
            return found[0]
        if sympos > len(found):
            raise LoadError(f"symbol position {sympos} for symbol '{name}' in object '{module or 'vmlinux'}' not found")
        return found[sympos - 1]

    def symbol(self, name: str) -> KernelSymbol:
        """The only symbol of vmlinux of that name; KernelError otherwise."""
        return self.kernel.symbol(name)

    def address(self, name: str) -> int | None:
        """The first symbol of vmlinux of that name, None where there is none."""
        found = self.kernel.symbols_named(name)
        return found[0].address if found else None

    def describe(self, address: int) -> str:
        """`symbol+0xoffset [module]` as the kernel's traces spell an address."""
        from_module = self._module_symbol(address)
        if from_module is not None:
            return from_module
        try:
            near = self.kernel.nearest(address)
        except KernelError:
            near = None
        if near is None or self.memory.find(address) is None:
            return f"{address:#x}"
        return f"{near.name}+{address - near.address:#x}"

    def _module_symbol(self, address: int) -> str | None:
        region = self.memory.find(address)
        if region is None or "[" in region.name:
            return None
        module = region.name.partition(":")[0]
        places, names = self._index(module)
        at = bisect_right(places, address) - 1
        if at < 0 or places[at] < region.base:
            return f"{address - region.base:#x} [{region.name}]"
        return f"{names[at]}+{address - places[at]:#x} [{module}]"

    def _index(self, module: str) -> tuple[list[int], list[str]]:
        """The symbols of a module in order of address; of several at one place the last."""
        found = self._indexes.get(module)
        if found is None:
            symbols = self.symbols_of.get(module, {})
            by_place = {place: name for name, places in symbols.items() for place in places}
            order = sorted(by_place)
            found = (order, [by_place[place] for place in order])
            if module in self.symbols_of:
                self._indexes[module] = found
        return found

    def function_size(self, address: int) -> int:
        """Bytes up to the next symbol, of vmlinux or of the module that holds it (kallsyms_lookup_size_offset)."""
        region = self.memory.find(address)
        if region is not None and (module := region.name.partition(":")[0]) in self.symbols_of:
            places, _ = self._index(module)
            at = bisect_right(places, address)
            return min(places[at] if at < len(places) else region.end, region.end) - address
        found = self.kernel.symbol_at(address)
        return self.kernel.size_of(found) if found is not None else 0

    def function_start(self, address: int) -> int | None:
        """The symbol at or before an address, None before the first."""
        region = self.memory.find(address)
        if region is not None and (module := region.name.partition(":")[0]) in self.symbols_of:
            places, _ = self._index(module)
            at = bisect_right(places, address) - 1
            return places[at] if at >= 0 and places[at] >= region.base else None
        found = self.kernel.nearest(address)
        return found.address if found is not None else None

    def ftrace_of(self, module: str) -> Sequence[int]:
        """Where functions of a module, or of vmlinux, can be traced; in order."""
        loaded = self.modules.get(module)
        found: Sequence[int] = loaded.ftrace if loaded is not None else self.ftrace
        return found

    # State

    def static_key(self, address: int) -> int:
        """The count of a static key: from the state, else the reader, else memory (struct static_key.enabled)."""
        known = None if address in self.changed else self.state.static_keys.get(address)
        if known is not None:
            return known
        observed = self.key_reader(address) if self.key_reader is not None else None
        if observed is not None:
            return observed
        value = self.memory.u32(address)
        return value - (1 << 32) if value >> 31 else value

    def static_call(self, key: int) -> int:
        """The function that a static call goes to (struct static_call_key.func, its first member)."""
        known = None if key in self.changed else self.state.static_calls.get(key)
        if known is not None:
            return known
        observed = self.call_reader(key) if self.call_reader is not None else None
        return self.memory.u64(key) if observed is None else observed

    # Execution

    def call(self, function: str | int, *arguments: Argument, budget: int = 1_000_000) -> Result:
        """Call a function by name or address with at most `budget` instructions.

        Bytes and text (NUL-terminated) are put into memory and given by address.
        Raises Fault, by symbol and instruction, where the code cannot go on.
        """
        address = self.find_function(function) if isinstance(function, str) else function
        values = [self.argument(value) for value in arguments]
        return self.machine().run(address, values, budget)

    def argument(self, value: Argument) -> int:
        """A number as it is; bytes and text by the address that they are put at."""
        if isinstance(value, int):
            return value
        return self.heap.put(value if isinstance(value, bytes) else value.encode() + b"\0")

    def find_function(self, name: str) -> int:
        """`NAME` in vmlinux, or `MODULE:NAME`; LoadError where it is not the only one."""
        module, colon, plain = name.partition(":")
        if colon:
            found = self.symbols_of.get(module, {}).get(plain, ())
        else:
            found = tuple(symbol.address for symbol in self.kernel.symbols_named(name))
        if len(found) != 1:
            raise LoadError(f"{len(found) or 'no'} symbols are called {name}")
        return found[0]

    def stub(self, function: str | int, answer: Stub) -> None:
        """Let Python answer calls of a function; what it returns is the function's value."""
        self.stubs[self.find_function(function) if isinstance(function, str) else function] = answer
        self.reset_machine()

    def reset_machine(self) -> None:
        """Have the next call begin with a new processor."""
        self._machine = None

    def machine(self) -> Machine:
        """The processor; a new one after memory was mapped or written from outside."""
        if self._machine is None or self._machine[0] != self.memory.generation:
            self._machine = (self.memory.generation, Machine(self, self.stubs))
        return self._machine[1]

    def _percpu_area(self) -> bytearray:
        """That of the only CPU: the template, then the reserve for modules."""
        start, end = self.address("__per_cpu_start"), self.address("__per_cpu_end")
        area = bytearray((end or 0) - (start or 0) + PAGE + PERCPU_RESERVE)
        if start is not None and end is not None and end > start:
            area[: end - start] = self.memory.read(start, end - start)
        return area + bytes(-len(area) % PAGE)

    # Addresses

    def allocate(self, size: int) -> int:
        """Page-aligned room in the module area, with a guard page behind it as vmalloc leaves one."""
        size = (size + PAGE - 1) // PAGE * PAGE + PAGE
        for i, (start, length) in enumerate(self._free):
            if length >= size and self.memory.overlapping(start, size) is None:
                if length == size:
                    del self._free[i]
                else:
                    self._free[i] = (start + size, length - size)
                return start
        start = self._next_module
        while (other := self.memory.overlapping(start, size)) is not None:  # placed where a real kernel has it
            start = (other.end + PAGE - 1) // PAGE * PAGE
        if start + size > MODULES_END:
            raise LoadError("no room in the module area")
        self._next_module = start + size
        return start

    def release(self, start: int, size: int) -> None:
        """Give room back."""
        size = (size + PAGE - 1) // PAGE * PAGE + PAGE
        free = sorted([*self._free, (start, size)])
        merged: list[tuple[int, int]] = []
        for begin, length in free:
            if merged and merged[-1][0] + merged[-1][1] == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((begin, length))
        if merged and merged[-1][0] + merged[-1][1] == self._next_module:
            self._next_module = merged.pop()[0]
        self._free = merged

    def forget(self, loaded: Any) -> None:
        """Take a module out: its memory, its symbols, its exports, its uses of others."""
        self.modules.pop(loaded.name, None)
        self.symbols_of.pop(loaded.name, None)
        self._indexes.pop(loaded.name, None)
        for name in loaded.exports:
            self.module_exports.pop(name, None)
        for other in self.modules.values():
            other.users.discard(loaded.name)
        mapped = list(self.memory)
        for region in loaded.regions:
            if any(region is other for other in mapped):
                self.memory.remove(region)
                self.release(region.base, len(region.data))
        if loaded.percpu is not None:
            self.release_percpu(loaded.percpu)

    def allocate_percpu(self, size: int, align: int) -> int:
        """An offset in the per-CPU area reserved for modules, as __alloc_reserved_percpu gives one."""
        align = max(min(align, PAGE), 1)
        start = self._percpu_start()
        at = start + -start % align
        for taken, length in sorted(self._percpu_taken.items()):
            if at + size <= taken:
                break
            at = max(at, taken + length)
            at += -at % align
        if at + size > start + PERCPU_RESERVE:
            raise LoadError(f"Could not allocate {size} bytes percpu data")
        self._percpu_taken[at] = size
        return at

    def release_percpu(self, at: int) -> None:
        self._percpu_taken.pop(at, None)

    def _percpu_start(self) -> int:
        end = self.address("__per_cpu_end")
        return 0 if end is None else (end + PAGE - 1) // PAGE * PAGE

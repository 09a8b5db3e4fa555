"""A module as it lies in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from builder.binary import Address, SectionIndex
from builder.binary.module import ModuleFile
from builder.errors import LoadError
from builder.image.memory import Region
from builder.image.simulated import SimulatedKernel

PERCPU = ".data..percpu"
THIS_MODULE = ".gnu.linkonce.this_module"


@dataclass(frozen=True, slots=True)
class Placed:
    """A section where it lies: `kind` names the memory (`text`, `rodata`, `ro_after_init`, `data`, `init_*`)."""

    index: SectionIndex
    name: str
    address: Address
    size: int
    flags: int
    type: int
    kind: str

    @property
    def end(self) -> Address:
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Site:
    """One place that a pass wrote, with the bytes before and after."""

    step: str
    address: Address
    old: bytes
    new: bytes


@dataclass(slots=True)
class LoadedModule:
    """What the kernel keeps of a module: where it lies, what it exports, what was patched in it.

    `values` are the symbol values after simplify_symbols, by index; `counts`
    the sites that each pass wrote; `sites` every one of them where they were
    asked for.
    """

    file: ModuleFile
    name: str
    sections: tuple[Placed, ...]
    regions: tuple[Region, ...]
    values: list[Address] = field(repr=False)
    percpu: int | None = None
    users: set[str] = field(default_factory=set)
    taints: frozenset[str] = frozenset()
    ftrace: tuple[Address, ...] = field(default=(), repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    relocations: dict[str, int] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list, repr=False)
    exports: tuple[str, ...] = ()
    breaks_ftrace: bool = False
    """An entry that was to be traced is none: ftrace_bug() has disabled all tracing for good."""
    warnings: tuple[str, ...] = ()

    def section(self, name: str) -> Placed | None:
        """The first section of this name."""
        return next((s for s in self.sections if s.name == name), None)

    def symbol(self, name: str) -> Address | None:
        """The address of the first symbol of this name that the module defines."""
        for symbol, value in zip(self.file.object.symbols, self.values, strict=True):
            if symbol.name == name and symbol.is_defined:
                return value
        return None

    def init_address(self, kernel: SimulatedKernel) -> Address:
        """`init` of its struct module, 0 where it has none."""
        this = self.section(THIS_MODULE)
        offset = kernel.kernel.layout("module").offset_of("init")
        if this is None or offset + 8 > this.size:
            return Address(0)
        return kernel.memory.pointer(this.address + offset)

    @property
    def size(self) -> int:
        """Bytes of memory taken."""
        return sum(len(region.data) for region in self.regions)

    def holds(self, address: Address) -> bool:
        """within_module()"""
        return any(region.base <= address < region.end for region in self.regions)

    def in_init(self, address: Address) -> bool:
        """within_module_init()"""
        return any(s.kind.startswith("init") and s.address <= address < s.end for s in self.sections)


def loaded_module(kernel: SimulatedKernel, name: str) -> LoadedModule:
    """A module that `builder.load.loader` has loaded; LoadError where none of that name is."""
    found = kernel.modules.get(name)
    if not isinstance(found, LoadedModule):
        raise LoadError(f"module {name} is not loaded")
    return found


class ModuleKallsyms(Mapping[str, tuple[Address, ...]]):
    """The symbols that a module keeps, name -> addresses in the order of its table; made when first asked for.

    is_core_symbol (kernel/module/kallsyms.c, with CONFIG_KALLSYMS_ALL); a livepatch keeps all of its symbols.
    """

    def __init__(self, loaded: LoadedModule) -> None:
        self._loaded = loaded
        self._found: dict[str, tuple[Address, ...]] | None = None

    def _table(self) -> dict[str, tuple[Address, ...]]:
        if self._found is None:
            loaded = self._loaded
            per_cpu, everything = loaded.file.find(PERCPU), loaded.file.is_livepatch
            kept = {section.index for section in loaded.sections if not section.kind.startswith("init")}
            kept |= {per_cpu.index} if per_cpu is not None else set()
            found: dict[str, list[Address]] = {}
            for symbol, value in zip(loaded.file.object.symbols, loaded.values, strict=True):
                if symbol.name and symbol.shndx and (everything or symbol.shndx in kept):
                    found.setdefault(symbol.name, []).append(value)
            self._found = {name: tuple(values) for name, values in found.items()}
        return self._found

    def __getitem__(self, name: str) -> tuple[Address, ...]:
        return self._table()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())

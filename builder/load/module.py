"""A module file as the kernel is given it, and a module as it lies in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from builder.binary import ObjectFile, Section, Symbol, elf, klp, read_object
from builder.binary.kernel import read_module_bytes
from builder.errors import InputError, LoadError
from builder.image.memory import Region
from builder.image.simulated import SimulatedKernel

PERCPU = ".data..percpu"
THIS_MODULE = ".gnu.linkonce.this_module"


@dataclass(frozen=True)
class ModuleFile:
    """The bytes of a `.ko`, read; `object` is its content."""

    where: str
    data: bytes = field(repr=False)
    object: ObjectFile = field(repr=False)

    @classmethod
    def read(cls, source: str | Path | bytes, where: str = "") -> ModuleFile:
        """From a file (compressed or not) or from bytes. Raises InputError for what is no module."""
        data = source if isinstance(source, bytes) else read_module_bytes(Path(source))
        label = where or ("module" if isinstance(source, bytes) else str(source))
        found = read_object(data, name=label)
        if found.machine != elf.EM_X86_64 or not found.little:
            raise InputError(f"is for ELF machine {found.machine}; only x86-64 modules can be loaded", where=label)
        return cls(label, data, found)

    @cached_property
    def modinfo(self) -> Mapping[str, tuple[str, ...]]:
        """Each key of `.modinfo` with its values in order."""
        found: dict[str, list[str]] = {}
        section = self.object.by_name.get(".modinfo")
        for entry in section.data.split(b"\0") if section is not None else ():
            key, equals, value = entry.decode("utf-8", "replace").partition("=")
            if equals:
                found.setdefault(key, []).append(value)
        return {key: tuple(values) for key, values in found.items()}

    def info(self, key: str) -> str | None:
        """The first value of a key, None where it is absent: get_modinfo()."""
        return next(iter(self.modinfo.get(key, ())), None)

    @property
    def name(self) -> str:
        return self.info("name") or ""

    @property
    def depends(self) -> tuple[str, ...]:
        return tuple(name.replace("-", "_") for name in (self.info("depends") or "").split(",") if name)

    @property
    def wants(self) -> tuple[str, ...]:
        """What `softdep=pre:` names: modules or aliases that its init asks for."""
        rows = (row.partition("post:")[0] for row in self.modinfo.get("softdep", ()))
        return tuple(name for row in rows for name in row.replace("pre:", " ").split())

    @property
    def is_livepatch(self) -> bool:
        return self.info("livepatch") is not None

    def find(self, name: str) -> Section | None:
        """find_sec(): the first section of this name that is allocated."""
        return next((s for s in self.object.sections if s.name == name and s.flags & elf.SHF_ALLOC), None)


@dataclass(frozen=True, slots=True)
class Placed:
    """A section where it lies: `kind` names the memory (`text`, `rodata`, `ro_after_init`, `data`, `init_*`)."""

    index: int
    name: str
    address: int
    size: int
    flags: int
    type: int
    kind: str

    @property
    def end(self) -> int:
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class Site:
    """One place that a pass wrote, with the bytes before and after."""

    step: str
    address: int
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
    values: list[int] = field(repr=False)
    percpu: int | None = None
    users: set[str] = field(default_factory=set)
    taints: frozenset[str] = frozenset()
    ftrace: tuple[int, ...] = field(default=(), repr=False)
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

    def symbol(self, name: str) -> int | None:
        """The address of the first symbol of this name that the module defines."""
        for symbol, value in zip(self.file.object.symbols, self.values, strict=True):
            if symbol.name == name and symbol.is_defined:
                return value
        return None

    def init_address(self, kernel: SimulatedKernel) -> int:
        """`init` of its struct module, 0 where it has none."""
        this = self.section(THIS_MODULE)
        offset = kernel.kernel.layout("module").offset_of("init")
        return kernel.memory.u64(this.address + offset) if this is not None and offset + 8 <= this.size else 0

    @property
    def size(self) -> int:
        """Bytes of memory taken."""
        return sum(len(region.data) for region in self.regions)

    def holds(self, address: int) -> bool:
        """within_module()"""
        return any(region.base <= address < region.end for region in self.regions)

    def in_init(self, address: int) -> bool:
        """within_module_init()"""
        return any(s.kind.startswith("init") and s.address <= address < s.end for s in self.sections)


def loaded_module(kernel: SimulatedKernel, name: str) -> LoadedModule:
    """A module that `builder.load.loader` has loaded; LoadError where none of that name is."""
    found = kernel.modules.get(name)
    if not isinstance(found, LoadedModule):
        raise LoadError(f"module {name} is not loaded")
    return found


class Kallsyms(Mapping[str, tuple[int, ...]]):
    """The symbols that a module keeps, name -> addresses in the order of its table; made when first asked for.

    is_core_symbol (kernel/module/kallsyms.c, with CONFIG_KALLSYMS_ALL); a livepatch keeps all of its symbols.
    """

    def __init__(self, loaded: LoadedModule) -> None:
        self._loaded = loaded
        self._found: dict[str, tuple[int, ...]] | None = None

    def _table(self) -> dict[str, tuple[int, ...]]:
        if self._found is None:
            loaded = self._loaded
            per_cpu, everything = loaded.file.find(PERCPU), loaded.file.is_livepatch
            kept = {section.index for section in loaded.sections if not section.kind.startswith("init")}
            kept |= {per_cpu.index} if per_cpu is not None else set()
            found: dict[str, list[int]] = {}
            for symbol, value in zip(loaded.file.object.symbols, loaded.values, strict=True):
                if symbol.name and symbol.shndx and (everything or symbol.shndx in kept):
                    found.setdefault(symbol.name, []).append(value)
            self._found = {name: tuple(values) for name, values in found.items()}
        return self._found

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._table()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())


def patched_objects(module: ModuleFile) -> tuple[str, ...]:
    """The modules that its klp sections and symbols name."""
    rows: tuple[Section | Symbol, ...] = (*module.object.sections, *module.object.symbols)
    found = {klp.object_named(row.name) for row in rows}
    return tuple(sorted(name for name in found if name and name != klp.VMLINUX))

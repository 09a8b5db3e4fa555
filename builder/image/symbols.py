"""The symbols of a simulated kernel: those of its image, and those of the modules that are loaded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from builder.binary import Address
from builder.binary.kernel import Export, Kernel
from builder.errors import KernelError, LoadError
from builder.image.kept import ModuleExport
from builder.image.memory import Memory

Names = Mapping[str, tuple[Address, ...]]
"""Name -> addresses in the order of the symbol table."""


class _Index(NamedTuple):
    """The symbols of a module in order of address; of several at one place the last."""

    places: list[Address]
    names: list[str]


class SimulatedSymbols:
    """Names to addresses and back, as kallsyms has them.

    The loader enters a module in `of_module` (what its kallsyms keep) and its exports in `exported`.
    """

    def __init__(self, kernel: Kernel, memory: Memory) -> None:
        self._kernel = kernel
        self._memory = memory
        self._indexes: dict[str, _Index] = {}
        self.of_module: dict[str, Names] = {}
        self.exported: dict[str, ModuleExport] = {}

    def forget(self, module: str) -> None:
        """Drop the symbols and the exports of a module."""
        self.of_module.pop(module, None)
        self._indexes.pop(module, None)
        for name in [name for name, export in self.exported.items() if export.owner == module]:
            del self.exported[name]

    # Names to addresses

    def address(self, name: str) -> Address | None:
        """The first symbol of vmlinux of that name, None where there is none."""
        found = self._kernel.symbols_named(name)
        return found[0].address if found else None

    def export(self, name: str) -> Export | ModuleExport | None:
        """What find_symbol() finds: vmlinux's exports first, then those of loaded modules."""
        return self._kernel.export(name) or self.exported.get(name)

    def position(self, module: str | None, name: str, sympos: int) -> Address:
        """The address that klp_find_object_symbol (kernel/livepatch/core.c) finds; LoadError with its words."""
        owner, found = module or "vmlinux", self._named(module, name)
        if not found:
            raise LoadError(f"symbol '{name}' not found in symbol table of {owner}")
        if sympos == 0:
            if len(found) > 1:
                raise LoadError(f"unresolvable ambiguity for symbol '{name}' in object '{owner}'")
            return found[0]
        if sympos > len(found):
            raise LoadError(f"symbol position {sympos} for symbol '{name}' in object '{owner}' not found")
        return found[sympos - 1]

    def find_function(self, name: str) -> Address:
        """`NAME` in vmlinux, or `MODULE:NAME`; LoadError where it is not the only one."""
        module, colon, plain = name.partition(":")
        found = self._named(module, plain) if colon else self._named(None, name)
        if len(found) != 1:
            raise LoadError(f"{len(found) or 'no'} symbols are called {name}")
        return found[0]

    def _named(self, module: str | None, name: str) -> tuple[Address, ...]:
        if module is None:
            return tuple(symbol.address for symbol in self._kernel.symbols_named(name))
        return self.of_module.get(module, {}).get(name, ())

    # Addresses to names

    def describe(self, address: Address) -> str:
        """`symbol+0xoffset [module]` as the kernel's traces spell an address."""
        from_module = self._describe_in_module(address)
        if from_module is not None:
            return from_module
        try:
            near = self._kernel.nearest(address)
        except KernelError:
            near = None
        if near is None or self._memory.find(address) is None:
            return f"{address:#x}"
        return f"{near.name}+{address - near.address:#x}"

    def _describe_in_module(self, address: Address) -> str | None:
        region = self._memory.find(address)
        if region is None or "[" in region.name:
            return None
        module = region.name.partition(":")[0]
        index = self._index(module)
        at = bisect_right(index.places, address) - 1
        if at < 0 or index.places[at] < region.base:
            return f"{address - region.base:#x} [{region.name}]"
        return f"{index.names[at]}+{address - index.places[at]:#x} [{module}]"

    def _index(self, module: str) -> _Index:
        found = self._indexes.get(module)
        if found is None:
            symbols = self.of_module.get(module, {})
            by_place = {place: name for name, places in symbols.items() for place in places}
            order = sorted(by_place)
            found = _Index(order, [by_place[place] for place in order])
            if module in self.of_module:
                self._indexes[module] = found
        return found

    def function_size(self, address: Address) -> int:
        """Bytes up to the next symbol, of vmlinux or of the module that holds it (kallsyms_lookup_size_offset)."""
        region = self._memory.find(address)
        if region is not None and (module := region.name.partition(":")[0]) in self.of_module:
            places = self._index(module).places
            at = bisect_right(places, address)
            return min(places[at] if at < len(places) else region.end, region.end) - address
        found = self._kernel.symbol_at(address)
        return self._kernel.size_of(found) if found is not None else 0

    def function_start(self, address: Address) -> Address | None:
        """The symbol at or before an address, None before the first."""
        region = self._memory.find(address)
        if region is not None and (module := region.name.partition(":")[0]) in self.of_module:
            places = self._index(module).places
            at = bisect_right(places, address) - 1
            return places[at] if at >= 0 and places[at] >= region.base else None
        found = self._kernel.nearest(address)
        return found.address if found is not None else None

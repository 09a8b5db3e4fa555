"""The target kernel: everything a build needs to know of it, from its image alone."""

from __future__ import annotations

import json
import mmap
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builder.acquire import sums
from builder.acquire.cache import cache_root, use_path
from builder.binary import Address
from builder.binary.kernel import modules
from builder.binary.kernel.btf import Btf, Index
from builder.binary.kernel.exports import Export
from builder.binary.kernel.facts import Facts, image_hash
from builder.binary.kernel.kaslr import KaslrRelocations, check_offset, moved, read_relocations, relocate
from builder.binary.kernel.layout import StructLayout
from builder.binary.kernel.static import ImageSection, Segment, StaticImage
from builder.binary.kernel.survey import FACTS, Features, survey
from builder.errors import KernelError


@dataclass(frozen=True, slots=True)
class KernelSymbol:
    """One kallsyms entry: `type` is the letter of nm, `position` the rank in the whole table, from 0."""

    name: str
    address: Address
    type: str
    position: int


_SAME_NAME: Final = "SELECT position, type FROM symbols WHERE name = ? ORDER BY position"
_EXPORT: Final = "SELECT name, address, crc, gpl, namespace FROM exports"


class Kernel:
    """A kernel image as a target; `open` it. All addresses are as linked, unless it is `at` a KASLR `offset`.

    `release` is the image's own (from its banner); `vmlinux` the ELF inside it,
    in the cache; `modules_root` the release's module tree, None where there is none.
    Every failure to find what was asked for is a KernelError that names it.
    """

    def __init__(self, path: Path, sha256: str, cache: Path, *, offset: int = 0) -> None:
        self.path = path
        self.sha256 = sha256
        self._cache = cache
        self.offset = offset
        folder = cache / "kernels" / sha256
        self._facts = Facts(folder / FACTS, lambda: survey(path, folder))
        self.vmlinux = self._find_vmlinux(folder)
        self.release = str(self._facts.meta("release"))
        self.banner = str(self._facts.meta("banner"))
        self.vermagic = str(self._facts.meta("vermagic"))
        known = json.loads(self._facts.meta("features"))
        self.features = Features(**known)
        self._symbols: dict[str, tuple[KernelSymbol, ...]] = {}
        self._exports: dict[str, Export | None] = {}
        self._layouts: dict[str, StructLayout] = {}

    @classmethod
    def open(cls, kernel: str | Path, *, cache: Path | None = None) -> Kernel:
        """A vmlinuz or vmlinux file, or a release name that is looked up in the usual places.

        The first time an image is seen it is decoded, which takes seconds; then
        it is found by its sha256 in `cache` (BESPOKE_CACHE, ~/.cache/bespoke).
        """
        root = cache or cache_root()
        path = Path(kernel)
        try:
            if path.is_dir():
                raise KernelError("a directory, no kernel image", where=path)
            if not path.is_file():
                if "/" in str(kernel):
                    raise KernelError("no such file", where=path)
                path = modules.find_image(str(kernel), root)
            use_path(path.resolve())
            found = image_hash(path, root)
            use_path(root / "kernels" / found)
            return cls(path, found, root)
        except OSError as error:
            raise KernelError(f"cannot be read: {error.strerror or error}", where=path) from error

    def at(self, offset: int) -> Kernel:
        """The same kernel as a boot with KASLR has it: `offset` bytes above where it was linked.

        Its image is relocated; symbols, exports, segments and sections are where they then are.
        Raises KernelError for an offset that no boot gives, and for an image without relocations.
        """
        if self.offset:
            raise KernelError(f"is at a KASLR offset of {self.offset:#x} already", where=self.path)
        if not offset:
            return self
        check_offset(self.image, offset)
        other = Kernel(self.path, self.sha256, self._cache, offset=offset)
        other.image  # noqa: B018 - its error says what is missing
        return other

    def _find_vmlinux(self, folder: Path) -> Path:
        if not self._facts.meta("packed"):
            return self.path.resolve()
        found = folder / "vmlinux"
        if not found.is_file() or sums.checksum_once(found) != self._facts.meta("vmlinux_crc"):
            if found.exists():
                sums.note_damage(found)
            self._facts.rebuild()
        return found

    # Symbols, as `kallsyms_on_each_symbol` and livepatch see them.

    @cached_property
    def _addresses(self) -> array[int]:
        linked = self._facts.words("addresses", "Q")
        return array("Q", (moved(Address(address), self.offset) for address in linked)) if self.offset else linked

    def symbols_named(self, name: str) -> tuple[KernelSymbol, ...]:
        """All symbols of this name in kallsyms order; empty where there is none."""
        found = self._symbols.get(name)
        if found is None:
            rows = self._facts.rows(_SAME_NAME, name)
            found = tuple(KernelSymbol(name, self._addresses[at], kind, at) for at, kind in rows)
            self._symbols[name] = found
        return found

    def symbols_beginning(self, prefix: str) -> tuple[KernelSymbol, ...]:
        """All symbols whose names begin with `prefix`, plain letters, in kallsyms order."""
        query = "SELECT position, name, type FROM symbols WHERE name GLOB ? ORDER BY position"
        rows = self._facts.rows(query, f"{prefix}*")
        return tuple(KernelSymbol(name, self._addresses[at], kind, at) for at, name, kind in rows)

    def symbol(self, name: str) -> KernelSymbol:
        """The only symbol of this name; KernelError where there is none or several."""
        found = self.symbols_named(name)
        if len(found) != 1:
            raise KernelError(f"{len(found) or 'no'} symbols are called {name}", where=self.path)
        return found[0]

    def sympos(self, symbol: KernelSymbol) -> int:
        """How livepatch counts this symbol: 0 where its name is unique, else its rank, from 1, among equals.

        klp_find_object_symbol (kernel/livepatch/core.c) counts in kallsyms order up to 6.1
        and in the order of kallsyms_seqs_of_names from 6.2; there equal names are sorted
        by address, then by place (compare_names, scripts/kallsyms.c), which is the same.
        Raises KernelError where a clang LTO suffix makes the count depend on the kernel.
        """
        equals = self.symbols_named(symbol.name)
        if symbol not in equals:
            raise KernelError(f"{symbol.name} at {symbol.address:#x} is none of its symbols", where=self.path)
        if self._facts.meta("llvm_suffixes"):
            # 6.2 to 6.10 with CONFIG_LTO_CLANG compare names without the suffix, others with it.
            stem = symbol.name.partition(".llvm.")[0]
            query = "SELECT count(*) FROM symbols WHERE name GLOB ?"
            if stem != symbol.name or self._facts.rows(query, f"{stem}.llvm.*")[0][0]:
                raise KernelError(
                    f"which symbol livepatch finds for {symbol.name} depends on its .llvm. suffixes",
                    where=self.path,
                )
        return 0 if len(equals) == 1 else equals.index(symbol) + 1

    def _symbol_at_position(self, position: int) -> KernelSymbol:
        return self._between(position, position + 1)[0]

    def _between(self, first: int, stop: int) -> list[KernelSymbol]:
        rows = self._facts.rows(
            "SELECT name, type, position FROM symbols WHERE position >= ? AND position < ? ORDER BY position",
            first,
            stop,
        )
        return [KernelSymbol(name, self._addresses[at], kind, at) for name, kind, at in rows]

    def symbol_at(self, address: Address) -> KernelSymbol | None:
        """The first symbol, in kallsyms order, exactly at `address`."""
        at = bisect_left(self._addresses, address)
        if at == len(self._addresses) or self._addresses[at] != address:
            return None
        return self._symbol_at_position(at)

    def symbols_in(self, start: Address, end: Address) -> tuple[KernelSymbol, ...]:
        """All symbols with start <= address < end, in kallsyms order."""
        first, stop = bisect_left(self._addresses, start), bisect_left(self._addresses, end)
        return tuple(self._between(first, stop))

    def nearest(self, address: Address) -> KernelSymbol | None:
        """The symbol that `address` belongs to, as the kernel's traces name it; None below the first.

        Of several at one address the first (get_symbol_pos, kernel/kallsyms.c).
        """
        at = bisect_right(self._addresses, address) - 1
        return None if at < 0 else self.symbol_at(Address(self._addresses[at]))

    def size_of(self, symbol: KernelSymbol) -> int:
        """Bytes up to the next symbol at a higher address (padding included), 0 for the last.

        So measures kallsyms_lookup_size_offset, and livepatch by it.
        """
        after = bisect_right(self._addresses, symbol.address)
        return self._addresses[after] - symbol.address if after < len(self._addresses) else 0

    @property
    def number_of_symbols(self) -> int:
        return len(self._addresses)

    def all_symbols(self) -> Iterator[KernelSymbol]:
        """Every symbol in kallsyms order."""
        yield from self._between(0, len(self._addresses))

    # Exports.

    def export(self, name: str) -> Export | None:
        """What vmlinux exports under this name."""
        if name not in self._exports:
            rows = self._facts.rows(f"{_EXPORT} WHERE name = ?", name)
            self._exports[name] = self._export(*rows[0]) if rows else None
        return self._exports[name]

    def exports(self) -> Mapping[str, Export]:
        """All exports of vmlinux by name."""
        return self._all_exports

    @cached_property
    def _all_exports(self) -> Mapping[str, Export]:
        rows = self._facts.rows(f"{_EXPORT} ORDER BY position")
        return MappingProxyType({row[0]: self._export(*row) for row in rows})

    def _export(self, name: str, address: str, crc: int | None, gpl: int, namespace: str) -> Export:
        return Export(name, moved(Address(address, 16), self.offset), crc, bool(gpl), namespace)

    # Structures.

    @cached_property
    def btf(self) -> Btf:
        """The kernel's BTF; KernelError where it was built without."""
        if not self.features.btf:
            raise KernelError(
                "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF), so the layouts of its structures are unknown: "
                "nothing can be built for it, nor loaded into its image; `diff` and `try` do without",
                where=self.path,
            )
        index = Index(self._facts.words("btf_names", "I"), self._facts.words("btf_offsets", "I"))
        start, size = self._facts.meta("btf_address"), self._facts.meta("btf_size")
        return Btf(self.image.read(moved(Address(start, 16), self.offset), size), where=self.path, index=index)

    def layout(self, struct: str) -> StructLayout:
        """The layout of `struct NAME` (or a union, or a typedef of one)."""
        found = self._layouts.get(struct)
        if found is None:
            found = self._layouts[struct] = self.btf.layout(struct)
        return found

    def require_livepatch(self) -> None:
        """Raises KernelError where no livepatch can be loaded into this kernel, and says why."""
        if not self.features.livepatch:
            raise KernelError(
                "the kernel cannot be livepatched: it was built without CONFIG_LIVEPATCH (it has no klp_enable_patch)",
                where=self.path,
            )
        if not self.features.btf:
            self.btf  # noqa: B018 - its error says what is missing

    # Bytes.

    @cached_property
    def image(self) -> StaticImage:
        """The bytes of the vmlinux by address, before boot has patched anything."""
        with self.vmlinux.open("rb") as file:
            linked = StaticImage(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), where=self.vmlinux)
        return relocate(linked, _kaslr_relocations(linked), self.offset) if self.offset else linked

    def read(self, address: Address, size: int) -> bytes:
        """`size` bytes of the static image; KernelError outside it."""
        return self.image.read(address, size)

    def kaslr_relocations(self) -> KaslrRelocations:
        """Every site that a boot with KASLR changes; KernelError where the image carries none."""
        return _kaslr_relocations(self.image)

    def text_range(self) -> tuple[Address, Address]:
        """From `_stext` to `_etext`."""
        return self.symbol("_stext").address, self.symbol("_etext").address

    def init_text_range(self) -> tuple[Address, Address]:
        """From `_sinittext` to `_einittext`: code that is gone after boot."""
        return self.symbol("_sinittext").address, self.symbol("_einittext").address

    @property
    def segments(self) -> tuple[Segment, ...]:
        return self.image.segments

    @property
    def sections(self) -> Mapping[str, ImageSection]:
        return MappingProxyType(self.image.sections)

    # Modules.

    @cached_property
    def modules_root(self) -> Path | None:
        """The release's module tree: beside the image, else /lib/modules, else an unpacked package."""
        return modules.find_modules_root(self.path, self.release, self._cache)

    def find_module(self, name: str) -> Path | None:
        """The file of a module in the release's tree (`-` and `_` are the same), None where there is none."""
        return self._finder.find(name) if self._finder is not None else None

    @cached_property
    def _finder(self) -> modules.ModuleFinder | None:
        folder = self._cache / "kernels" / self.sha256
        return modules.ModuleFinder(self.modules_root, folder) if self.modules_root is not None else None

    @cached_property
    def builtin_names(self) -> frozenset[str]:
        """The names below /sys/module that no loaded module can have: what is built in, and who has parameters.

        param_sysfs_builtin() (kernel/params.c, v6.1) makes one for each prefix of a name in `__param`, `kernel`
        where there is none, and mod_sysfs_init() refuses a module whose name is there (kernel/module/sysfs.c);
        `compression` is a file there (kernel/module/decompress.c). Those that a newer kernel makes for drivers
        without parameters (module_add_driver(), drivers/base/module.c, v6.12.24) are told by no table.
        """
        row, start = self.layout("kernel_param"), self.symbol("__start___param").address
        size = self.symbol("__stop___param").address - start
        if size % row.size:
            raise KernelError(f"__param has {size} bytes, no multiple of {row.size}", where=self.path)
        (name,) = (member.offset for member in row.members if member.name == "name")
        table = self.read(start, size)
        places = (int.from_bytes(table[at + name : at + name + 8], "little") for at in range(0, size, row.size))
        prefixes = (self.image.string(Address(place)).rpartition(".")[0] for place in places)
        return (
            modules.builtin_modules(self.modules_root) | {prefix or "kernel" for prefix in prefixes} | {"compression"}
        )

    def close(self) -> None:
        """Release the facts file; the object is of no use afterwards."""
        self._facts.close()


def _kaslr_relocations(image: StaticImage) -> KaslrRelocations:
    percpu_at_zero = any(segment.address == 0 for segment in image.segments)
    return read_relocations(image, inverse=percpu_at_zero)

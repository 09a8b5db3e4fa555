"""Which modules must be loaded before which, found on the host.

`modules.dep` exists only where depmod has run, which is not so in an unpacked
package; what modprobe knows stands in each module's own `depends=` (scripts/mod/modpost.c).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from builder.binary import klp
from builder.binary.kernel.decompress import decompress
from builder.binary.manifest import SECTION, Manifest
from builder.errors import InputError

CRYPTO = "crypto-"


class BootableKernel(Protocol):
    """What a guest needs of a kernel."""

    @property
    def path(self) -> Path:
        """The bzImage."""

    @property
    def vmlinux(self) -> Path:
        """The extracted ELF image, with its PVH note."""

    @property
    def release(self) -> str:
        """As `uname -r` prints it."""

    @property
    def modules_root(self) -> Path | None:
        """The directory `lib/modules/RELEASE`, if there is one."""

    def find_module(self, name: str) -> Path | None:
        """The file of the module `name`, compressed or not."""


@dataclass(frozen=True)
class ModuleFile:
    """A module as the kernel would be given it: the bytes, and what its `.modinfo` says."""

    where: str
    data: bytes

    @classmethod
    def read(cls, source: Path | bytes, where: str = "") -> ModuleFile:
        """Read, and decompress where need be. Raises InputError for what is no module."""
        if isinstance(source, bytes):
            module = cls(where or "module", source)
        else:
            try:
                module = cls(where or str(source), decompress(source.read_bytes(), where=source))
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}", where=source) from None
        if not module.name:
            raise InputError("not a kernel module: its .modinfo names none", where=module.where)
        return module

    @cached_property
    def modinfo(self) -> Mapping[str, tuple[str, ...]]:
        """Each key of `.modinfo` with its values in order; empty where there is none."""
        found: dict[str, list[str]] = {}
        section = self._elf.get_section_by_name(".modinfo")
        for entry in section.data().split(b"\0") if section is not None else ():
            key, equals, value = entry.decode(errors="replace").partition("=")
            if equals:
                found.setdefault(key, []).append(value)
        return {key: tuple(values) for key, values in found.items()}

    @property
    def name(self) -> str:
        """As /proc/modules spells it."""
        return plain(self._one("name"))

    @property
    def depends(self) -> tuple[str, ...]:
        return tuple(plain(name) for name in self._one("depends").split(",") if name)

    @property
    def wants(self) -> tuple[str, ...]:
        """What `softdep=pre:` asks for: names of modules or aliases."""
        rows = (row.partition("post:")[0] for row in self.modinfo.get("softdep", ()))
        return tuple(name for row in rows for name in row.replace("pre:", " ").split())

    @property
    def aliases(self) -> tuple[str, ...]:
        return self.modinfo.get("alias", ())

    @property
    def is_livepatch(self) -> bool:
        return self._one("livepatch") == "Y"

    @cached_property
    def patched_objects(self) -> tuple[str, ...]:
        """The modules that a livepatch is for: those of our manifest, and those that klp sections and
        symbols name (`Documentation/livepatch/module-elf-format.rst`).

        Without a manifest, an object whose new functions refer to nothing of the
        old ones leaves no trace here; sysfs names it once the livepatch is loaded.
        """
        found = {owner for name in self._names() if (owner := klp.object_named(name)) is not None}
        if (section := self._elf.get_section_by_name(SECTION)) is not None:
            found.update(Manifest.from_bytes(section.data(), where=self.where).objects)
        return tuple(sorted(found - {klp.VMLINUX}))

    def _names(self) -> Iterator[str]:
        for section in self._elf.iter_sections():
            yield section.name
            if isinstance(section, SymbolTableSection):
                yield from (symbol.name for symbol in section.iter_symbols())

    def _one(self, key: str) -> str:
        return next(iter(self.modinfo.get(key, ())), "")

    @cached_property
    def _elf(self) -> ELFFile:
        try:
            return ELFFile(io.BytesIO(self.data))
        except (ELFError, OSError, ValueError) as error:
            raise InputError(f"not a kernel module: {error}", where=self.where) from None


def plain(name: str) -> str:
    """The kernel's spelling of a module name: `-` and `_` are one."""
    return name.replace("-", "_")


class ModuleTree:
    """The modules of one kernel, with those of the caller before them."""

    def __init__(self, kernel: BootableKernel, own: Mapping[str, Path] | None = None) -> None:
        self._kernel = kernel
        self._own = {plain(name): path for name, path in (own or {}).items()}
        self._seen: dict[str, ModuleFile | None] = {}

    @cached_property
    def builtin(self) -> frozenset[str]:
        """What `modules.builtin` says is part of the image."""
        root = self._kernel.modules_root
        path = root / "modules.builtin" if root is not None else None
        lines = path.read_text().splitlines() if path is not None and path.is_file() else []
        return frozenset(plain(Path(line).name.partition(".ko")[0]) for line in lines)

    def find(self, name: str) -> ModuleFile | None:
        """The module `name`; None if it is built in. InputError if it is nowhere to be found."""
        name = plain(name)
        if name not in self._seen:
            path = self._own.get(name) or self._kernel.find_module(name)
            if path is None and name not in self.builtin:
                raise InputError(f"module {name} is not in the tree of {self._kernel.release}; give its file")
            module = ModuleFile.read(path) if path is not None else None
            if module is not None and module.name != name:
                raise InputError(f"this is module {module.name}, not {name}", where=module.where)
            self._seen[name] = module
        return self._seen[name]

    def provider(self, name: str) -> str | None:
        """The module for what a soft dependency or the kernel's request_module() names, if there is one."""
        if plain(name) in self._own or self._kernel.find_module(name) is not None:
            return plain(name)
        return self._crypto.get(name) if name.startswith(CRYPTO) else None

    @cached_property
    def _crypto(self) -> Mapping[str, str]:
        """Alias -> module of the crypto providers, the portable one before the CPU's own.

        Without depmod an alias is found only by reading modules; nearly all that
        provide crypto lie in folders of that name.
        """
        root, found = self._kernel.modules_root, dict[str, str]()
        paths = root.glob("kernel/**/crypto/*.ko*") if root is not None else ()
        for path in sorted(paths, key=lambda path: ("generic" not in path.name, path.name)):
            module = ModuleFile.read(path)
            for alias in module.aliases:
                found.setdefault(alias, module.name)
        return found

    def closure(self, names: Iterable[str], loaded: Iterable[str] = ()) -> list[ModuleFile]:
        """The modules to load for `names`, dependencies first, those already `loaded` left out."""
        done, order = {plain(name) for name in loaded}, list[ModuleFile]()

        def visit(name: str) -> None:
            if name in done:
                return
            done.add(name)
            if (module := self.find(name)) is not None:
                for needed in (*map(self.provider, module.wants), *module.depends):
                    if needed is not None:
                        visit(needed)
                order.append(module)

        for name in names:
            visit(plain(name))
        return order

"""Which modules must be loaded before which, found on the host.

`modules.dep` exists only where depmod has run, which is not so in an unpacked
package; what modprobe knows stands in each module's own `depends=` (scripts/mod/modpost.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

from builder.binary.kernel.modules import absent_module, builtin_modules
from builder.binary.module import ModuleFile, plain
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


class ModuleTree:
    """The modules of one kernel, with those of the caller before them."""

    def __init__(self, kernel: BootableKernel, own: Mapping[str, Path] | None = None) -> None:
        self._kernel = kernel
        self._own = {plain(name): path for name, path in (own or {}).items()}
        self._seen: dict[str, ModuleFile | None] = {}

    @cached_property
    def builtin(self) -> frozenset[str]:
        """What `modules.builtin` says is part of the image."""
        return builtin_modules(self._kernel.modules_root)

    def find(self, name: str) -> ModuleFile | None:
        """The module `name`; None if it is built in. InputError if it is nowhere to be found."""
        name = plain(name)
        if name not in self._seen:
            path = self._own.get(name) or self._kernel.find_module(name)
            if path is None and name not in self.builtin:
                raise InputError(absent_module(name, self._kernel.release, self._kernel.modules_root))
            module = ModuleFile.read_named(path) if path is not None else None
            if module is not None and plain(module.name) != name:
                raise InputError(f"this is module {module.name}, not {name}", where=module.where)
            self._seen[name] = module
        return self._seen[name]

    def provider(self, name: str) -> str | None:
        """The module for what a soft dependency or the kernel's request_module() names, if there is one."""
        if plain(name) in self._own or self._kernel.find_module(name) is not None:
            return plain(name)
        return self._crypto.get(name) if name.startswith(CRYPTO) else None

    def needed_by(self, module: ModuleFile) -> Iterator[str]:
        """What is to be loaded before a module; its soft dependencies may be algorithms (libcrc32c: `pre: crc32c`)."""
        for name in module.wants:
            found = self.provider(name) or (None if plain(name) in self.builtin else self._crypto.get(name))
            if found is not None:
                yield found
        yield from module.depends

    @cached_property
    def _crypto(self) -> Mapping[str, str]:
        """Alias -> module of the crypto providers, the portable one before the CPU's own.

        Without depmod an alias is found only by reading modules; nearly all that
        provide crypto lie in folders of that name.
        """
        root, found = self._kernel.modules_root, dict[str, str]()
        paths = root.glob("kernel/**/crypto/*.ko*") if root is not None else ()
        for path in sorted(paths, key=lambda path: ("generic" not in path.name, path.name)):
            module = ModuleFile.read_named(path)
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
                for needed in self.needed_by(module):
                    visit(needed)
                order.append(module)

        for name in names:
            visit(plain(name))
        return order

"""All of it at once: a module and what it needs are loaded, and a livepatch is enabled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from builder.binary.module import ModuleFile
from builder.image.simulated import SimulatedKernel
from builder.load.livepatch import run_init
from builder.load.loader import load_with_dependencies
from builder.load.module import LoadedModule


class MadeModule(Protocol):
    """What a build returns, as far as it is loaded."""

    @property
    def content(self) -> bytes: ...


def load(
    module: str | Path | bytes | MadeModule, kernel: SimulatedKernel, modules: Mapping[str, str | Path] | None = None
) -> LoadedModule:
    """Load a module into a simulated kernel as the kernel itself does it, with the modules that it depends on.

    A livepatch is enabled: what calls its functions then runs the new versions. `modules` are files of modules by name,
    where the kernel's own tree has none; one that the livepatch patches is to be loaded before.

    The `LoadedModule` has `name`, `regions` (its memory), `sites` (what each pass has written, with the bytes before
    and after, if recorded) and `values` (the addresses of its symbols).

    Raises InputError for what is no module, LoadError (with `errno`) where the kernel would refuse it.
    """
    source = module if isinstance(module, bytes) else Path(module) if isinstance(module, str | Path) else module.content
    file = ModuleFile.read(source)
    loaded = load_with_dependencies(kernel, file, {name: Path(path) for name, path in (modules or {}).items()})
    if file.is_livepatch:
        run_init(kernel, loaded)
    return loaded

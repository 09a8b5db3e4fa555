"""Bespoke: the old and the new object of kernel code in, one live patch module out.

The folders of this package sort in the order in which data flows::

    acquire   objects, sources and kernels, from wherever they are
    arch      one record per architecture
    binary    objects and kernel images as frozen values; one reader, one writer
    compare   old.o, new.o            -> Correlation -> Comparison
    compose   Comparison              -> Selection + Bindings -> Bundle
    emit      Bundle                  -> X.ko, read back
    image     where code lives: simulated kernel, QEMU guest, this machine
    load      X.ko, image             -> loaded module, redirection
    operate   X.ko, a running kernel  -> livepatched, probes follow, trail
    preflight X.ko, image             -> what would go wrong
    report    what a person sees

A folder imports only folders above it. `pipeline` composes them, `cli` offers them as commands, and what a program
needs first stands here at the front door (`builder.front` documents it)::

    from builder import Kernel, SimulatedKernel, Guest, diff, build, patch, check, load

Each is imported when it is asked for: to look at one thing takes only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from builder.binary.kernel import Kernel
    from builder.front import build, check, diff, patch, simulate, unload
    from builder.image.guest import Guest
    from builder.image.simulated import SimulatedKernel
    from builder.load.whole import load

__version__ = "0.2.0"

_FRONT: Final = {
    "Guest": "builder.image.guest",
    "Kernel": "builder.binary.kernel",
    "SimulatedKernel": "builder.image.simulated",
    **dict.fromkeys(("build", "check", "diff", "patch", "simulate", "unload"), "builder.front"),
}
"""Name -> the module that has it; `load` is the package itself, which can be called."""

__all__ = [
    "Guest", "Kernel", "SimulatedKernel", "build", "check", "diff", "load", "patch", "simulate", "unload",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "load":
        return import_module("builder.load")
    if name not in _FRONT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FRONT[name]), name)

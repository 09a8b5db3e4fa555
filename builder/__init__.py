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

A folder imports only folders above it. `pipeline` composes them, `cli` offers them as commands.
"""

from __future__ import annotations

__version__ = "0.1.0"

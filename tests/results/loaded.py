"""`python loaded.py RELEASE [X.ko [NAME=PATH ...]]`: a SHA-256 of every section as the simulated loader leaves it.

Run as a program of its own, beside whichever package is in PYTHONPATH: a fresh
kernel for every module. A livepatch is enabled, before what it patches is
loaded. Without a module it is the kernel's own memory, once it has booted.
What can be read in the file's bytes is read there: the fewer names of the
package this needs, the more versions of it can be asked.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder.binary.kernel import Kernel
from builder.errors import BespokeError
from builder.image.derive import derive_state
from builder.load.boot import boot
from builder.load.livepatch import run_init
from builder.load.loader import load_with_dependencies
from builder.load.module import LoadedModule

if TYPE_CHECKING:
    from builder.image.simulated import SimulatedKernel

CPU: Final = "max"
CHUNK: Final = 1 << 16
LIVEPATCH: Final = b"livepatch=Y\0"
PATCHED: Final = re.compile(rb"\0\.klp\.(?:rela|sym)\.([\w-]+)\.")


def row(data: bytes, address: int, name: str) -> str:
    return f"{hashlib.sha256(data).hexdigest()}  {address:#x} {len(data):>8} {name}"


def rows_of_kernel(simulated: SimulatedKernel) -> Iterator[str]:
    """All of the kernel's memory, in pieces that show where something differs."""
    for region in simulated.memory:
        for at in range(0, len(region.data), CHUNK):
            yield row(bytes(region.data[at : at + CHUNK]), region.base + at, region.name)


def rows_of_module(simulated: SimulatedKernel, path: Path, objects: Mapping[str, Path]) -> Iterator[str]:
    """All sections of a module, and of the modules that it patches."""
    loaded = [load_with_dependencies(simulated, path, objects)]
    data = path.read_bytes()
    if LIVEPATCH in data:
        run_init(simulated, loaded[0])
    for name in sorted({one.decode() for one in PATCHED.findall(data)} - {"vmlinux"}):
        other = objects.get(name) or simulated.kernel.find_module(name)
        if name not in simulated.modules and other is not None:
            load_with_dependencies(simulated, other, objects)
        found = simulated.modules.get(name)
        loaded += [found] if isinstance(found, LoadedModule) else []
    for one in loaded:
        for section in one.sections:
            data = simulated.memory.read(section.address, section.size) if section.size else b""
            yield row(data, section.address, f"{one.name}: {section.name}")
        yield from (f"{one.name}: {warning}" for warning in one.warnings)


def main(words: Sequence[str]) -> int:
    """Prints the rows; a module that would not be loaded is an answer too (exit status 1)."""
    release, *rest = words
    kernel = Kernel.open(release)
    simulated = boot(kernel, derive_state(kernel, CPU))
    try:
        if rest:
            named = (text.partition("=") for text in rest[1:])
            rows = rows_of_module(simulated, Path(rest[0]), {name: Path(path) for name, _, path in named})
        else:
            rows = rows_of_kernel(simulated)
        for text in rows:
            print(text)
    except BespokeError as error:
        print(f"refused: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

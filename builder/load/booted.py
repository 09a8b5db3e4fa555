"""A kernel that has booted once, restored: what boot wrote over its image, kept beside the image's facts.

To execute the early code of a kernel, and to patch its hundred thousand sites, takes longer than to check a module.
What comes of it depends on the image, the CPU model, the command line and this program alone: so the state that was
derived is kept, and every byte that differs from the image, under a name made of all of these.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from builder.acquire import own_text, sums
from builder.acquire.cache import cache_root
from builder.acquire.whole import write_whole
from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.errors import UsageError
from builder.image.boot import BootState
from builder.image.derive import cpu_models, derive_state
from builder.image.memory import Bytes
from builder.image.simulated import SimulatedKernel
from builder.load.boot import boot

_MAKERS: Final = ("arch/**/*.py", "binary/**/*.py", "image/**/*.py", "load/**/*.py")
"""The text of all that derives, boots and reads a kernel: another makes another state."""
_RUN: Final = re.compile(rb"[^\0]+(?:\0{1,128}[^\0]+)*", re.DOTALL)
"""Bytes that differ, where those that differ not are zeros; some of these in between make no new run."""


def booted(kernel: Kernel, cpu: str, cpus: int = 1, *, cmdline: str = "") -> SimulatedKernel:
    """As `boot` with what `derive_state` says of this CPU; from the cache, where it has been made before.

    Raises as they do.
    """
    place = _place(kernel, cpu, cpus, cmdline)
    found = _restored(kernel, place)
    if found is None:
        found = boot(kernel, derive_state(kernel, cpu, cpus, cmdline=cmdline))
        _keep(found, place)
    return found


def _place(kernel: Kernel, cpu: str, cpus: int, cmdline: str) -> Path:
    leaves = sorted(cpu_models().get(cpu.partition(",")[0], {}).items())
    parts = repr((own_text.digest(*_MAKERS), kernel.symbol("_text").address, cpu, leaves, cpus, cmdline))
    name = hashlib.sha256(parts.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_root() / "kernels" / kernel.sha256 / f"booted-{name}"


def _keep(simulated: SimulatedKernel, place: Path) -> None:
    """Write what differs from the image; nothing where more than bytes differs, or the cache cannot be written."""
    fresh = SimulatedKernel(simulated.kernel, simulated.state)
    pairs = list(zip(fresh.memory, simulated.memory, strict=False))
    if (
        simulated.keys.changed
        or len(list(simulated.memory)) != len(pairs)
        or any((a.base, a.name, len(a.data)) != (b.base, b.name, len(b.data)) for a, b in pairs)
    ):
        return  # boot has mapped something, say: to be done anew each time
    rows = [row for a, b in pairs for row in _runs(a.base, bytes(a.data), bytes(b.data))]
    head = {
        "state": _state_document(simulated.state),
        "runs": len(rows),
        "traced": len(simulated.ftrace),
    }
    body = b"".join(
        (
            array("Q", [start for start, _ in rows]).tobytes(),
            array("Q", [len(data) for _, data in rows]).tobytes(),
            array("Q", simulated.ftrace).tobytes(),
            *(data for _, data in rows),
        )
    )
    line = json.dumps({**head, "crc": zlib.crc32(body)}).encode() + b"\n"
    with suppress(OSError, UsageError):
        write_whole(place, line + body)


def _runs(base: Address, before: bytes, after: bytes) -> Iterator[tuple[Address, bytes]]:
    """(address, bytes) of each run that differs."""
    both = (int.from_bytes(data, "little") for data in (before, after))
    differ = (next(both) ^ next(both)).to_bytes(len(before), "little")
    for found in _RUN.finditer(differ):
        yield Address(base + found.start()), after[found.start() : found.end()]


def _restored(kernel: Kernel, place: Path) -> SimulatedKernel | None:
    """The kernel as it was kept; None where it was not, or what was kept is damaged."""
    try:
        line, _, body = place.read_bytes().partition(b"\n")
        head = json.loads(line)
        if head["crc"] != zlib.crc32(body):
            raise ValueError("its checksum is another")
        state = _state(head["state"])
        counts = (head["runs"], head["runs"], head["traced"])
        words = array("Q", body[: 8 * sum(counts)])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        sums.note_damage(place)
        return None
    starts, sizes, traced = words[: counts[0]], words[counts[0] : 2 * counts[0]], words[2 * counts[0] :]
    simulated = SimulatedKernel(kernel, state)
    _write(simulated, starts, sizes, body[8 * sum(counts) :])
    simulated.ftrace = tuple(map(Address, traced))
    return simulated


def _write(simulated: SimulatedKernel, starts: array[int], sizes: array[int], data: bytes) -> None:
    """Put the runs, which are in order of address, into the regions."""
    regions = iter(simulated.memory)
    base = end = at = 0
    content: Bytes = bytearray()
    for start, size in zip(starts, sizes, strict=True):
        while start >= end:
            region = next(regions)
            base, end, content = region.base, region.end, region.data
        content[start - base : start - base + size] = data[at : at + size]
        at += size
    simulated.memory.generation += 1


def _state_document(state: BootState) -> dict[str, Any]:
    """Each field by its name; `data` is empty in what was derived."""
    return {field.name: _plain(getattr(state, field.name)) for field in fields(state)}


def _plain(value: object) -> object:
    return {_PAIRS: list(value.items())} if isinstance(value, Mapping) else value


def _state(document: Mapping[str, Any]) -> BootState:
    return BootState(**{name: _value(plain) for name, plain in document.items()})


def _value(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {Address(key): value for key, value in plain[_PAIRS]}
    return tuple(plain) if isinstance(plain, list) else plain


_PAIRS: Final = "pairs"
"""A mapping with numbers for keys, which JSON has not."""

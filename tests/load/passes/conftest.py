"""A few bytes of code and tables in the memory of a real kernel, patched by one pass at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import pytest

from builder.binary import Address
from builder.image.boot import BootState
from builder.image.derive import derive_state
from builder.image.memory import Region
from builder.image.simulated import SimulatedKernel
from builder.load.passes import Context, Table
from tests.support.kernels import opened

TEXT, DATA = Address(0xFFFFFFFFC1000000), Address(0xFFFFFFFFC1010000)
"""In the module area, where no module is."""
SIZE = 0x1000


@lru_cache(maxsize=4)
def _simulated(release: str, capabilities: tuple[int, ...], changes: tuple[tuple[str, int], ...]) -> SimulatedKernel:
    """A kernel as linked, with these words of features; nothing of it is patched."""
    kernel = opened(release)
    return SimulatedKernel(kernel, replace(_state(release), capabilities=capabilities, **dict(changes)))  # type: ignore[arg-type]


@lru_cache(maxsize=4)
def _state(release: str) -> BootState:
    return derive_state(opened(release), "max")


@dataclass
class Bench:
    """Code at `TEXT`, tables and data behind `DATA`; tables are put one behind the other."""

    kernel: SimulatedKernel
    tables: dict[str, Table] = field(default_factory=dict)
    free: Address = DATA

    def put(self, offset: int, code: bytes | str) -> Address:
        """The address of code that is written at an offset."""
        self.kernel.memory.write(TEXT + offset, code if isinstance(code, bytes) else bytes.fromhex(code))
        return TEXT + offset

    def code(self, address: Address, size: int) -> str:
        return self.kernel.memory.read(address, size).hex()

    def data(self, content: bytes) -> Address:
        """The address of bytes that are written beside the tables."""
        at = self.free
        self.kernel.memory.write(at, content)
        self.free += (len(content) + 31) // 16 * 16
        return at

    def table(self, name: str, content: bytes | Callable[[Address], bytes]) -> Address:
        """A table, made for the address that it is put at."""
        made = content if isinstance(content, bytes) else content(self.free)
        at = self.data(made)
        self.tables[name] = Table(at, len(made))
        return at

    def sites(self, name: str, places: Sequence[int]) -> Address:
        """A table of s32, each relative to itself."""
        return self.table(
            name, lambda at: b"".join(struct.pack("<i", place - at - 4 * i) for i, place in enumerate(places))
        )

    def run(self, apply: Callable[[Context], None], text: tuple[Address, Address] = (TEXT, TEXT + SIZE)) -> Context:
        """One pass over the tables; what it wrote is counted in the context."""
        context = Context(self.kernel, self.tables, text, step="pass", record=True)
        apply(context)
        return context


Make = Callable[..., Bench]


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Make]:
    """`bench(release, has=..., lacks=..., uniproc=...)`: a kernel whose processor has these features and not those."""
    made: list[tuple[SimulatedKernel, list[Region], Sequence[Address]]] = []

    def make(release: str, has: Sequence[int] = (), lacks: Sequence[int] = (), **changes: int) -> Bench:
        words = list(_state(release).capabilities)
        for number in has:
            words[number >> 5] |= 1 << (number & 31)
        for number in lacks:
            words[number >> 5] &= ~(1 << (number & 31))
        kernel = _simulated(release, tuple(words), tuple(sorted(changes.items())))
        made.append((kernel, list(kernel.memory), kernel.ftrace))
        kernel.memory.add(Region(TEXT, bytearray(b"\xcc" * SIZE), "bench:text", "rx"))
        kernel.memory.add(Region(DATA, bytearray(SIZE), "bench:data", "rw"))
        return Bench(kernel)

    yield make
    for kernel, regions, ftrace in made:
        kernel.ftrace = ftrace
        for region in list(kernel.memory):
            if not any(region is other for other in regions):
                kernel.memory.remove(region)


@pytest.fixture
def old(bench: Make, release_61: str) -> Bench:
    """Linux 6.1."""
    return bench(release_61)


@pytest.fixture
def newest(bench: Make, release_7: str) -> Bench:
    """Linux 7."""
    return bench(release_7)


@pytest.fixture
def new(bench: Make, release_612: str) -> Bench:
    """Linux 6.12."""
    return bench(release_612)

"""The bytes of a module as they are here and as a guest's kernel made them, and what each difference depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from builder.binary import Address, elf
from builder.image.capture import GuestMemory
from builder.image.simulated import SimulatedKernel
from builder.load.module import LoadedModule, Placed
from builder.load.passes import jump_label, static_call

WRITTEN = ("__jump_table", ".static_call_sites", "__mcount_loc", "__ex_table")
"""Tables that passes write though a section of data; other data is the module's own from its init on."""
AT_RUN_TIME = {"jump_label": "static key", "static_call": "static call"}
"""Passes that follow what may change while the kernel runs: by the pass, what that is called."""
STUB = 16
"""Bytes of padding before a function (CONFIG_FUNCTION_PADDING_BYTES), where its stub of call depth tracking goes."""


@dataclass(frozen=True, slots=True)
class ByteDifference:
    """Bytes of a section that are not what the kernel made.

    `step` is the pass that writes them and `cause` says of what they depend; "" where that is not known.
    """

    module: str
    section: str
    address: Address
    ours: bytes
    kernels: bytes
    symbol: str
    cause: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """One module, or all of them: bytes that were compared, those of code among them, and what differs."""

    bytes: int
    text_bytes: int
    differences: tuple[ByteDifference, ...]

    @classmethod
    def of(cls, parts: Iterable[Compared]) -> Compared:
        parts = list(parts)
        differences = tuple(d for part in parts for d in part.differences)
        return cls(sum(part.bytes for part in parts), sum(part.text_bytes for part in parts), differences)


def compare_module(simulated: SimulatedKernel, loaded: LoadedModule, memory: GuestMemory) -> Compared:
    """One module; what the kernel would have warned of is a difference."""
    warned = tuple(ByteDifference(loaded.name, "", Address(0), b"", b"", "", warning) for warning in loaded.warnings)
    sections = [_compare_section(simulated, loaded, s, memory) for s in loaded.sections if compared(s)]
    return Compared.of([Compared(0, 0, warned), *sections])


def compared(section: Placed) -> bool:
    """Text, read-only data and every table that a pass writes; not what is gone after init."""
    if section.kind.startswith("init") or not section.size or section.type == elf.SHT_NOBITS:
        return False
    return not section.flags & elf.SHF_WRITE or section.name in WRITTEN


def _compare_section(
    simulated: SimulatedKernel, loaded: LoadedModule, section: Placed, memory: GuestMemory
) -> Compared:
    ours, theirs = simulated.memory.read(section.address, section.size), memory.read(section.address, section.size)
    text = section.size if section.flags & elf.SHF_EXECINSTR else 0
    if ours == theirs:
        return Compared(section.size, text, ())
    causes, found = Causes(simulated, loaded, memory), []
    for start, end in _runs(ours, theirs):
        address = section.address + start
        where, why = simulated.symbols.describe(address), causes.of(address)
        found.append(
            ByteDifference(loaded.name, section.name, address, ours[start:end], theirs[start:end], where, *why)
        )
    return Compared(section.size, text, tuple(found))


def _runs(ours: bytes, theirs: bytes) -> Iterator[tuple[int, int]]:
    """Where both differ, from and to; differences with less than four equal bytes between them are one."""
    at = 0
    while at < len(ours):
        if ours[at] == theirs[at]:
            at += 1
            continue
        end = at + 1
        while end < len(ours) and ours[end : end + 4] != theirs[end : end + 4]:
            end += 1
        yield at, end
        at = end


class Causes:
    """Which static key or static call a byte of code depends on, and how the guest's differs."""

    def __init__(self, simulated: SimulatedKernel, loaded: LoadedModule, memory: GuestMemory) -> None:
        self._simulated, self._memory = simulated, memory
        self._by_code: dict[int, tuple[str, str]] = {}
        jumps, calls = loaded.section("__jump_table"), loaded.section(".static_call_sites")
        for at in map(Address, range(jumps.address, jumps.end - 15, 16) if jumps else ()):
            code, _, key = jump_label.ENTRY.unpack(simulated.memory.read(at, 16))
            self._add(at + code, "jump_label", Address((at + 8 + key) & ~3), self._key)
        for at in map(Address, range(calls.address, calls.end - 7, 8) if calls else ()):
            code, key = static_call.ENTRY.unpack(simulated.memory.read(at, 8))
            self._add(at + code, "static_call", Address((at + 4 + key) & ~3), self._call)
        symbols = simulated.symbols.of_module[loaded.name]
        for name, (trampoline, *_) in symbols.items():
            key_of = symbols.get(name.replace("__SCT__", "__SCK__", 1)) if name.startswith("__SCT__") else None
            if key_of is not None:
                self._add(trampoline, "static_call", key_of[0], self._call)

    def _add(self, code: Address, step: str, key: Address, value: Callable[[Address], tuple[str, str]]) -> None:
        ours, theirs = value(key)
        if ours != theirs:
            name = self._simulated.symbols.describe(key).removesuffix("+0x0")
            cause = f"{AT_RUN_TIME[step]} {name}: {ours}, in the guest {theirs}"
            places = [*range(code, code + 6)]
            target = self._memory.number(key, 8) if step == "static_call" else None
            if target and self._simulated.state.counts_calls:
                places += range(target - STUB, target)  # written when a call was first sent there
            for at in places:
                self._by_code.setdefault(at, (cause, step))

    def _key(self, key: Address) -> tuple[str, str]:
        ours, theirs = self._simulated.keys.count(key), self._memory.number(key, 4, signed=True)
        return ("off", "on")[ours != 0], "gone" if theirs is None else ("off", "on")[theirs != 0]

    def _call(self, key: Address) -> tuple[str, str]:
        ours, theirs = self._simulated.keys.target(key), self._memory.number(key, 8)
        return self._target(ours), "gone" if theirs is None else self._target(Address(theirs))

    def _target(self, address: Address) -> str:
        return self._simulated.symbols.describe(address).removesuffix("+0x0") if address else "nothing"

    def of(self, address: Address) -> tuple[str, str]:
        """The cause of a difference and the pass that follows it, "" where none is known."""
        return self._by_code.get(address, ("", ""))

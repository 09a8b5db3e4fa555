"""What a booted guest decided and holds: its memory through /proc/kcore, its boot state, its modules."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.binary.kernel.kaslr import KERNEL_MAP
from builder.errors import GuestError
from builder.image.boot import BUG_WORDS, CAPABILITY_WORDS, BootState
from builder.image.cpu_flags import flag_names
from builder.image.guest import Guest
from builder.image.memory import PAGE

_PHDR: Final = struct.Struct("<IIQQQQQQ")
_CHUNK: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class GuestModule:
    """A module as /sys/module shows it: the addresses of its sections, in the order of their names."""

    name: str
    sections: Mapping[str, Address]


class GuestMemory:
    """The kernel memory of a guest, read by address; what was read once is kept."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        header = guest.get("/proc/kcore", length=PAGE)
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        if offset + size * count > len(header):
            header = guest.get("/proc/kcore", length=offset + size * count)
        rows = (_PHDR.unpack_from(header, offset + size * i) for i in range(count))
        self._segments = [(row[3], row[6], row[2]) for row in rows if row[0] == 1]
        self._known: list[tuple[Address, bytes]] = []

    def _offset(self, address: Address, size: int) -> int:
        for base, length, offset in self._segments:
            if base <= address and address + size <= base + length:
                return int(offset + address - base)
        raise GuestError(f"/proc/kcore does not show {size} bytes at {address:#x}")

    def fetch(self, address: Address, size: int) -> bytes:
        """Read now, whatever is known already."""
        pieces = []
        for at in map(Address, range(address, address + size, _CHUNK)):
            length = min(_CHUNK, address + size - at)
            piece = self._guest.get("/proc/kcore", offset=self._offset(at, length), length=length)
            if len(piece) != length:
                raise GuestError(f"/proc/kcore gave {len(piece)} of {length} bytes at {at:#x}")
            pieces.append(piece)
        return b"".join(pieces)

    def keep(self, start: Address, end: Address) -> None:
        """Read a range, to be answered from by `read`."""
        start, end = start - start % PAGE, end + -end % PAGE
        self._known.append((start, self.fetch(start, end - start)))

    def keep_spans(self, ranges: Iterable[tuple[Address, Address]], gap: int = 1 << 20) -> None:
        """Read many ranges, those that are near each other at once."""
        merged: list[tuple[Address, Address]] = []
        for start, end in sorted(ranges):
            if merged and start - merged[-1][1] < gap:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        for start, end in merged:
            self.keep(start, end)

    def known(self, address: Address, size: int) -> bytes | None:
        """`size` bytes at `address` of what was kept, None where it was not."""
        for start, data in reversed(self._known):
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        return None

    def number(self, address: Address, size: int, *, signed: bool = False) -> int | None:
        """A number in what was kept, None where it was not (memory that is gone after init)."""
        found = self.known(address, size)
        return None if found is None else int.from_bytes(found, "little", signed=signed)

    def read(self, address: Address, size: int) -> bytes:
        """`size` bytes at `address`, as kept, else read now. GuestError where the guest is gone."""
        found = self.known(address, size)
        if found is None and not self._guest.alive:
            raise GuestError(f"{size} bytes at {address:#x} were not kept before the guest ended")
        return self.fetch(address, size) if found is None else found

    def u32(self, address: Address) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def u64(self, address: Address) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def pointer(self, address: Address) -> Address:
        """The address that is stored at `address`."""
        return Address(self.u64(address))


def writable_ranges(kernel: Kernel) -> tuple[tuple[Address, Address], ...]:
    """The kernel's data, and its bss; what lies between is gone after boot."""
    bounds = (("_sdata", "__init_begin"), ("__bss_start", "__bss_stop"))
    return tuple((kernel.symbol(start).address, kernel.symbol(stop).address) for start, stop in bounds)


def where_it_is(guest: Guest, kernel: Kernel) -> Kernel:
    """The kernel at the addresses that a guest booted it at."""
    shown = guest.check("grep -m1 ' _text$' /proc/kallsyms").split()[0]
    return kernel.at(Address(shown, 16) - kernel.symbol("_text").address)


def capture_state(guest: Guest, kernel: Kernel, memory: GuestMemory) -> BootState:
    """The boot state of a guest, its whole data with it; `kernel` is where the guest has it (`where_it_is`)."""
    data = []
    for start, end in writable_ranges(kernel):
        memory.keep(start, end)
        data.append((start, memory.read(start, end - start)))
    return state_from(kernel, memory, guest.config.cpu, tuple(data))


def state_from(kernel: Kernel, memory: GuestMemory, cpu: str, data: tuple[tuple[Address, bytes], ...]) -> BootState:
    """The state that stands in the variables of a booted kernel."""
    at = kernel.symbol("boot_cpu_data").address + kernel.layout("cpuinfo_x86").offset_of("x86_capability")
    words = struct.unpack(f"<{CAPABILITY_WORDS + BUG_WORDS}I", memory.read(at, 4 * (CAPABILITY_WORDS + BUG_WORDS)))
    thunk = kernel.symbols_named("x86_return_thunk")
    uniproc = kernel.symbols_named("uniproc_patched")  # gone with `.smp_locks`
    possible = memory.read(kernel.symbol("__cpu_possible_mask").address, 64)
    return BootState(
        cpu=cpu,
        capabilities=words,
        return_thunk=memory.pointer(thunk[0].address) if thunk else Address(0),
        pv_ops=pv_operations(kernel, memory.read),
        possible_cpus=int.from_bytes(possible, "little").bit_count(),
        uniproc=bool(uniproc) and memory.read(uniproc[0].address, 1) != b"\0",
        data=data,
    )


def tell_flags(guest: Guest, kernel: Kernel, names: Iterable[str]) -> None:
    """Let a booted kernel believe that its CPU has these flags, as /proc/cpuinfo spells them.

    The bits are written into `boot_cpu_data`, which is all that the module loader asks. What the kernel
    does about a flag at boot does not happen. GuestError where the kernel is not seen to have them then.
    """
    memory, known = GuestMemory(guest), flag_names(kernel)
    at = kernel.symbol("boot_cpu_data").address + kernel.layout("cpuinfo_x86").offset_of("x86_capability")
    moved = memory.u64(kernel.symbol("phys_base").address)
    for name in names:
        word, bit = divmod(known[name], 32)
        place = at + 4 * word
        value = memory.u32(place) | 1 << bit
        # What is linked at KERNEL_MAP is at physical `phys_base`.
        guest.write_memory(place - KERNEL_MAP + moved, struct.pack("<I", value))
        if memory.u32(place) != value:
            raise GuestError(f"CPU flag {name} could not be written at {place:#x}")


def pv_operations(kernel: Kernel, read: object) -> tuple[Address, ...]:
    """The pointers of `pv_ops` in order; empty where the kernel has none."""
    assert callable(read)
    found = kernel.symbols_named("pv_ops")
    if not found:
        return ()
    size = kernel.layout("paravirt_patch_template").size
    return struct.unpack(f"<{size // 8}Q", read(found[0].address, size))


def guest_modules(guest: Guest) -> list[GuestModule]:
    """The loaded modules in order of loading, with the addresses of all their sections."""
    order = [line.split()[0] for line in guest.check("cat /proc/modules").splitlines()][::-1]
    # Whole reads only: module_sect_read (kernel/module/sysfs.c) answers at offset 0 and nowhere else.
    script = "cd /sys/module && for m in */sections; do grep -s . $m/.[!.]* $m/*; done; true"
    found: dict[str, dict[str, Address]] = {}
    for line in guest.check(script, timeout=600).splitlines():
        path, _, address = line.rpartition(":")
        module, _, section = path.partition("/sections/")
        found.setdefault(module, {})[section] = Address(address, 16)
    return [GuestModule(name, found.get(name, {})) for name in order]


CPUID_LEAVES: Final = (
    *((leaf, 0, 1) for leaf in range(0x21)), *((4, sub, 1) for sub in range(1, 5)), *((7, sub, 1) for sub in (1, 2)),
    *((0xB, sub, 1) for sub in (1, 2, 3)), *((0xD, sub, 1) for sub in range(1, 20)),
    *((leaf, sub, 1) for leaf in (0x12, 0x14, 0x1F) for sub in (1, 2)),
    (0x40000000, 0, 2), (0x80000000, 0, 0x22), *((0x8000001D, sub, 1) for sub in range(1, 5)),
)  # fmt: skip
"""(leaf, subleaf, how many leaves from there)"""


def cpuid_leaves(guest: Guest) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """What CPUID answers in a guest; of /dev/cpu/0/cpuid the offset is leaf and subleaf (arch/x86/kernel/cpuid.c)."""
    guest.modprobe("cpuid")
    device = "/dev/cpu/0/cpuid"
    read = " && ".join(
        f"dd if={device} iflag=skip_bytes bs=16 skip={leaf | sub << 32} count={count} status=none"
        for leaf, sub, count in CPUID_LEAVES
    )
    guest.check(f"mkdir -p /dev/cpu/0; [ -e {device} ] || mknod {device} c 203 0; ({read}) > /run/cpuid", timeout=60)
    data = guest.get("/run/cpuid")
    places = [(leaf + i, sub) for leaf, sub, count in CPUID_LEAVES for i in range(count)]
    rows = struct.iter_unpack("<4I", data)
    return {place: row for place, row in zip(places, rows, strict=True) if any(row)}

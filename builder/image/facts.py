"""What the kernel's own code does with a module, told by the structures and symbols of its image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.errors import UnknownError
from builder.image.boot import BootState


@dataclass(frozen=True)
class CodeFacts:
    """Facts of one kernel in one state; each is looked up when it is first asked for."""

    kernel: Kernel
    state: BootState

    @cached_property
    def text(self) -> tuple[Address, Address]:
        """_stext to _etext."""
        return self.kernel.text_range()

    @cached_property
    def init_text(self) -> tuple[Address, Address]:
        """_sinittext to _einittext."""
        return self.kernel.init_text_range()

    def in_init(self, address: Address) -> bool:
        """init_section_contains(), for code."""
        return self.init_text[0] <= address < self.init_text[1]

    @cached_property
    def alternative_size(self) -> int:
        """Bytes of struct alt_instr: 12, or 14 with flags (6.3)."""
        size = self.kernel.layout("alt_instr").size
        if size not in (12, 14):
            raise UnknownError(f"struct alt_instr of {size} bytes", where=self.kernel.path)
        return size

    @cached_property
    def longest_nop(self) -> int:
        """ASM_NOP_MAX: x86_nops[] has one pointer more."""
        found = self.kernel.size_of(self.kernel.symbol("x86_nops")) // 8 - 1
        return min(found, 11) if found >= 8 else 8

    @cached_property
    def sorts_pairs(self) -> bool:
        """Whether sort() takes two elements at a time from its heap (lib/sort.c, v6.11); it leaves no other trace."""
        major, minor = self.kernel.release.split(".")[:2]
        return (int(major), int("".join(c for c in minor if c.isdigit()))) >= (6, 11)

    @cached_property
    def has_its(self) -> bool:
        """X86_FEATURE_INDIRECT_THUNK_ITS, another bit in each series (asm/cpufeatures.h, v6.1.139, v6.12.29)."""
        if not self.kernel.symbols_named("its_return_thunk"):
            return False
        return self.state.has(21 * 32 + (6 if self.kernel.features.module_memory else 5))

    @cached_property
    def orc_ends_section(self) -> Callable[[int, int], bool]:
        """Whether an ORC entry, by its fifth and sixth byte, ends a section (orc_sort_cmp, kernel/unwind_orc.c)."""
        layout = self.kernel.layout("orc_entry")

        def bits(name: str) -> tuple[int, int]:
            member = layout.member(name)
            if member.bit_offset is None or member.bit_size is None:
                raise UnknownError(f"struct orc_entry with a {name} that is no bit-field", where=self.kernel.path)
            return member.bit_offset - 32, (1 << member.bit_size) - 1

        if layout.has("end"):  # to 6.3
            (sp_at, sp), (end_at, end) = bits("sp_reg"), bits("end")

            def ends(low: int, high: int) -> bool:
                value = low | high << 8
                return not value >> sp_at & sp and not value >> end_at & end
        else:
            kind_at, kind = bits("type")

            def ends(low: int, high: int) -> bool:
                return not (low | high << 8) >> kind_at & kind

        return ends

    @cached_property
    def trampoline_keys(self) -> Mapping[Address, Address]:
        """Trampoline of a static call that is not exported -> its key (struct static_call_tramp_key)."""
        ends = [self.kernel.symbols_named(f"__{side}_static_call_tramp_key") for side in ("start", "stop")]
        if not all(ends):
            return {}
        start, stop = (symbols[0].address for symbols in ends)
        rows = map(Address, range(start, stop - 7, 8))
        return {at + self._s32(at): at + 4 + self._s32(at + 4) for at in rows}

    def _s32(self, address: Address) -> int:
        return int.from_bytes(self.kernel.read(address, 4), "little", signed=True)

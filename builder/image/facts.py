"""What the kernel's own code does with a module, told by the structures and symbols of its image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.errors import UnknownError
from builder.image.boot import BootState

ALWAYS: Final = 3 * 32 + 21
"""X86_FEATURE_ALWAYS (asm/cpufeatures.h, v6.1 to v7.3)"""
POISONS: Final = (bytes.fromhex("660f1f00"), bytes.fromhex("0f1f40d6"))
"""`osp nopl (%rax)` (v5.18), `nopl -42(%rax)` (v6.18)."""
ENDBR_CODE: Final = ("apply_ibt_endbr", "apply_seal_endbr", "poison_endbr", "is_endbr")
INLINED: Final = (
    ("__static_call_return0", "xor5rax"),
    ("__WARN_trap", "warninsn"),
    ("__raw_callee_save___native_queued_spin_unlock", "unlockinsn"),
)
"""What is called, and the name of the five bytes that stand for a call of it."""


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
    def knows_many_nops(self) -> bool:
        """Whether moves and jumps that do nothing count as NOPs (insn_is_nop in arch/x86/lib/insn-eval.c, v6.19)."""
        return bool(self.kernel.symbols_named("insn_is_nop"))

    @cached_property
    def sealed_endbr(self) -> bytes:
        """gen_endbr_poison() (asm/ibt.h), from the code that writes or knows it; UnknownError where it is neither."""
        code = b"".join(
            self.kernel.read(symbol.address, self.kernel.size_of(symbol))
            for name in ENDBR_CODE
            for symbol in self.kernel.symbols_named(name)
        )
        found = [poison for poison in POISONS if poison in code]
        if len(found) != 1:
            raise UnknownError("seals ENDBR by an instruction of no known form", where=self.kernel.path)
        return found[0]

    @cached_property
    def inlined_targets(self) -> Mapping[Address, bytes]:
        """Static calls that become another instruction, by what is called (arch_static_call_transform).

        __static_call_return0 (v5.12), __WARN_trap (v6.19) and the native unlock (v7.3); the five bytes are the
        kernel's own arrays (arch/x86/kernel/static_call.c).
        """
        rows = {}
        for target, instruction in INLINED:
            functions, forms = self.kernel.symbols_named(target), self.kernel.symbols_named(instruction)
            if functions and forms:
                rows[functions[0].address] = self.kernel.read(forms[0].address, 5)
        return rows

    @cached_property
    def has_its(self) -> bool:
        """X86_FEATURE_INDIRECT_THUNK_ITS: another bit in each series (asm/cpufeatures.h), so that which one is read
        from the alternative in its_init_mod, which asks for it first (arch/x86/kernel/alternative.c, v6.1.139)."""
        asks = self.kernel.symbols_named("its_init_mod")
        if not asks:
            return False
        start, end = asks[0].address, asks[0].address + self.kernel.size_of(asks[0])
        bits = {feature for site, feature in self._alternatives() if start <= site < end} - {ALWAYS}
        if len(bits) != 1:
            raise UnknownError("its_init_mod asks for no single feature of the CPU", where=self.kernel.path)
        return self.state.has(bits.pop())

    def _alternatives(self) -> Iterator[tuple[Address, int]]:
        """(site, feature) of each alternative of the image."""
        start, stop = (self.kernel.symbol(f"__alt_instructions{end}").address for end in ("", "_end"))
        content = self.kernel.read(start, stop - start)
        for at in range(0, len(content), self.alternative_size):
            site, feature = int.from_bytes(content[at : at + 4], "little", signed=True), content[at + 8 : at + 10]
            yield start + at + site, int.from_bytes(feature, "little") & 0x7FFF

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

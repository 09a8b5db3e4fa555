"""What a kernel decided at boot, and what decides how it patches the modules that it loads.

Everything that the loader's passes depend on besides the module and the image
is in one frozen `BootState`; none of it is looked up anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from builder.binary import Address

# arch/x86/include/asm/cpufeatures.h: word * 32 + bit, the same from 6.1 to 7.3.
RETPOLINE: Final = 11 * 32 + 12
RETPOLINE_LFENCE: Final = 11 * 32 + 13
RETHUNK: Final = 11 * 32 + 14
CALL_DEPTH: Final = 11 * 32 + 19
"""6.2 and later; the bit had no user before."""
IBT: Final = 18 * 32 + 20
CAPABILITY_WORDS: Final = 22
BUG_WORDS: Final = 2
DECIDED: Final = ("return_thunk", "pv_ops", "possible_cpus", "uniproc")
"""What a BootState holds besides capabilities that is decided once, at boot."""

_NONE: Final[Mapping[Address, Address]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class BootState:
    """The inputs of the passes.

    `capabilities` are the words of `boot_cpu_data.x86_capability` (features,
    then bugs), 32 bits each. `return_thunk` is the target of `x86_return_thunk`,
    0 where the kernel has none. `pv_ops` are the pointers of that structure in
    order. `uniproc` says whether lock prefixes were removed (one CPU present);
    `possible_cpus` is num_possible_cpus(). `static_keys` and `static_calls`
    hold what differs from the image: address of the key -> count, or -> target.
    """

    cpu: str
    capabilities: tuple[int, ...]
    return_thunk: Address
    pv_ops: tuple[Address, ...] = ()
    possible_cpus: int = 1
    uniproc: bool = False
    static_keys: Mapping[Address, int] = field(default_factory=lambda: _NONE)
    static_calls: Mapping[Address, Address] = field(default_factory=lambda: _NONE)
    data: tuple[tuple[Address, bytes], ...] = field(default=(), repr=False)
    """What the kernel's data held, where it was taken from a booted one: (address, bytes)."""

    @property
    def counts_calls(self) -> bool:
        """Whether the depth of calls is tracked: a stub before each function that is called counts."""
        return self.has(CALL_DEPTH)

    def has(self, feature: int) -> bool:
        """boot_cpu_has(): whether the bit `word * 32 + bit` is set."""
        word = feature >> 5
        return word < len(self.capabilities) and bool(self.capabilities[word] >> (feature & 31) & 1)

"""What the core needs to know of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Instruction(NamedTuple):
    """One decoded instruction of a function.

    `target` is the offset that a direct branch or call without relocation goes
    to, in the same coordinates as `offset`; None for everything else.
    """

    offset: int
    length: int
    mnemonic: int
    target: int | None
    is_nop: bool
    is_call: bool
    is_jump: bool
    ends_block: bool

    @property
    def end(self) -> int:
        return self.offset + self.length


class Operation(NamedTuple):
    """The parts of one instruction: `form` is the operation with the kinds of its operands.

    `reads` and `writes` are masks of general registers in the order of their
    encoding, a call's including what it need not preserve; `indirect` is a jump to what a register or memory holds.
    """

    form: tuple[object, ...]
    registers: tuple[int, ...]
    constants: tuple[int, ...]
    reads: int
    writes: int
    stack_read: bool
    stack_write: bool
    indirect: bool


@dataclass(frozen=True, slots=True)
class RelocationRow:
    """One relocation type: how wide, whether relative to its place, how it may overflow."""

    name: str
    size: int
    pc_relative: bool
    signed: bool
    formula: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """Facts of one machine; the functions take plain bytes and return plain values.

    A relocation of `branch_types` is only ever the last field of a call or jump.
    `registers` are the general ones in the order of their encoding, which is
    that of the bits in the masks of an `Operation`; `stack_register` is one of them.
    """

    name: str
    machine: int
    relocations: Mapping[int, RelocationRow]
    absolute64: int
    pc32: int
    call_types: frozenset[int]
    branch_types: frozenset[int]
    fentry: str
    return_thunk: str
    retpoline_prefixes: tuple[str, ...]
    endbr: bytes
    registers: tuple[str, ...]
    stack_register: str
    argument_registers: tuple[str, ...]
    decode: Callable[[bytes, int], list[Instruction]]
    loads_to: Callable[[bytes], str | None]
    pushes: Callable[[bytes], bool]
    immediate: Callable[[bytes], tuple[object, int] | None]
    writes: Callable[[bytes], frozenset[str]]
    text: Callable[[bytes, int], str]
    is_address_load: Callable[[bytes], bool]
    is_direct_transfer: Callable[[bytes], bool]
    operation: Callable[[bytes], Operation]
    memory_access: Callable[[bytes], str]
    is_indexed: Callable[[bytes], bool]
    is_compare: Callable[[bytes], bool]

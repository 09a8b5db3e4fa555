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
    `flags_read` and `flags_write` tell of the condition codes; what a call leaves in them is its own. `moved` is
    (from, to), by their places in the order of registers, where all that it does is to copy one to another.
    `read_order` are the registers of `reads` by their places, those of the operands first, in the operands' order.
    `repeats` is of what counts its own runs (`rep movs`): a kprobe there is hit for each of them. A conditional jump
    and its opposite have one form; one of them is `negated`.
    """

    form: tuple[object, ...]
    registers: tuple[int, ...]
    constants: tuple[int, ...]
    reads: int
    writes: int
    stack_read: bool
    stack_write: bool
    indirect: bool
    flags_read: bool = False
    flags_write: bool = False
    moved: tuple[int, int] | None = None
    read_order: tuple[int, ...] = ()
    repeats: bool = False
    negated: bool = False


@dataclass(frozen=True, slots=True)
class RelocationRow:
    """One relocation type: how wide its field is in bytes; its value is S + A, less P where it is `pc_relative`."""

    name: str
    size: int
    pc_relative: bool


@dataclass(frozen=True, slots=True)
class SiteTable:
    """A table of the calls and jumps whose target's whole name fits the pattern `target`.

    It follows from the code alone, and a kernel that has `feature` reads it when a module is loaded.
    With `of_known_calls` it holds only calls, and only of what they lead to by then.
    """

    name: str
    feature: str
    target: str
    of_known_calls: bool = False


@dataclass(frozen=True, slots=True)
class EntryMark:
    """The instruction that an indirect call must arrive at, called `name`, where the kernel has `feature`.

    The entries that lose it at boot stand in the section `table`, which lies from `start` to `end` in an image.
    """

    name: str
    code: bytes
    feature: str
    table: str
    start: str
    end: str


@dataclass(frozen=True, slots=True)
class ThunkCode:
    """Instructions of thunks, their operands zero: each operand is the last four bytes, PC-relative, but for `test`'s.

    `test` compares the word at its operand, `test_field` bytes from its start and `test_rest` before its end, with
    zero; `if_on` jumps where it was another, `if_off` where it was zero. The operand of `short_jump` is one byte. A
    direct call begins with the byte `call`.
    """

    test: bytes
    test_field: int
    test_rest: int
    if_on: bytes
    if_off: bytes
    jump: bytes
    short_jump: bytes
    call: int


@dataclass(frozen=True, slots=True)
class Glue:
    """What the part of a module that is written in assembly depends on.

    `template` is found in templates/, `assembler` are the options of GNU `as`. `modinfo` are (feature, key, value)
    and `imports` (feature, symbol): what it says, and takes from the kernel, where that has the feature.
    """

    template: str
    assembler: tuple[str, ...]
    modinfo: tuple[tuple[str, str, str], ...] = ()
    imports: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Architecture:
    """Facts of one machine; the functions take plain bytes and return plain values.

    `decode` covers all of the code it is given: what is no instruction becomes rows of one byte with mnemonic 0. What
    the other functions answer stands at those of x86_64.py; they are given the bytes of one instruction.
    `absolute` is the relocation of a whole address, `pc8` that of a short branch, which the kernel does not know. A
    relocation of `branch_types` is only ever the last field of a call or jump. The call of `fentry` begins within
    `entry_reach` bytes of a function's entry; it is empty where
    `__patchable_function_entries` tells what is traced.
    `nops` are by their length; `filler` stands between functions. A kprobe may run a copy of `probe_copy` bytes.
    Features go by their names in `builder.binary.kernel.Features`.
    `registers` are the general ones in the order of their encoding, which is
    that of the bits in the masks of an `Operation`; `stack_register` and
    `frame_register` are two of them. `fetch_registers` are the names that a kprobe's fetch arguments have for
    them, each with its place in `registers`, and None for a register that holds the same everywhere in the kernel.
    """

    name: str
    machine: int
    relocations: Mapping[int, RelocationRow]
    pc32: int
    pc8: int
    absolute: int
    call_types: frozenset[int]
    branch_types: frozenset[int]
    fentry: str
    entry_reach: int
    entry_mark: EntryMark
    nops: Mapping[int, bytes]
    filler: bytes
    thunks: ThunkCode
    registers: tuple[str, ...]
    stack_register: str
    probe_copy: int
    sites: tuple[SiteTable, ...]
    glue: Glue
    frame_register: str
    fetch_registers: Mapping[str, int | None]
    argument_registers: tuple[str, ...]
    decode: Callable[[bytes, int], list[Instruction]]
    loads_to: Callable[[bytes], str | None]
    pushes: Callable[[bytes], bool]
    immediate: Callable[[bytes], tuple[object, int] | None]
    writes: Callable[[bytes], frozenset[str]]
    text: Callable[[bytes, int], str]
    is_address_load: Callable[[bytes], bool]
    is_direct_transfer: Callable[[bytes], bool]
    relative_place: Callable[[bytes, int], int | None]
    operation: Callable[[bytes], Operation]
    memory_access: Callable[[bytes], str]
    is_indexed: Callable[[bytes], bool]
    is_relative: Callable[[bytes], bool]
    long_branch: Callable[[bytes], bytes | None]

    @property
    def padding(self) -> bytes:
        """The shortest NOP, with which compilers pad before a function."""
        return self.nops[min(self.nops)]

"""Redirection without livepatch: a jump written over the first bytes of the old function.

What nothing checks in a kernel is checked here: that the bytes overwritten are
whole instructions of this function alone, that nothing branches into them, and
that no table of the kernel's will patch or look for something there.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from builder.binary import Address
from builder.errors import LoadError
from builder.image.boot import IBT
from builder.image.simulated import SimulatedKernel
from builder.load.passes.context import JMP32, branch, relative
from builder.load.passes.decode import instructions
from builder.load.passes.ibt import ENDBR64
from builder.load.passes.jump_label import ENTRY as JUMP
from builder.load.passes.static_call import ENTRY as SITE

JUMP_SIZE = 5


@dataclass(frozen=True, slots=True)
class Overwritten:
    """A function whose entry was overwritten: `place` of the jump, the bytes that stood there."""

    old: Address
    new: Address
    place: Address
    before: bytes = field(repr=False)


def objections(kernel: SimulatedKernel, old: Address) -> list[str]:
    """Why the entry of the function at `old` must not be overwritten; empty where it may."""
    size = kernel.symbols.function_size(old)
    where = kernel.symbols.describe(old)
    if size < JUMP_SIZE:
        return [f"{where} has {size} bytes, a jump needs {JUMP_SIZE}"]
    code = kernel.memory.read(old, size)
    place = entry(kernel, old)
    start, end = place, place + JUMP_SIZE
    found = []
    covered = place
    for at, instruction, _ in instructions(code, old):
        if old + at < place:
            continue
        covered = old + at + instruction.len
        if covered >= end:
            break
    if covered < end:
        found.append(f"the first {JUMP_SIZE} bytes of {where} are not whole instructions")
    if covered > old + size:
        found.append(f"{where} ends before {JUMP_SIZE} bytes of whole instructions")
    # Of the bytes behind the jump, those up to the next instruction are never reached but by a branch.
    for source in branches_into(kernel, start + 1, covered):
        found.append(f"{kernel.symbols.describe(source)} branches into the first bytes of {where}")
    for what, address in patched_places(kernel, start, covered):
        found.append(f"a {what} lies at {kernel.symbols.describe(address)}, in the first bytes of {where}")
    return found


def entry(kernel: SimulatedKernel, old: Address) -> Address:
    """Where the jump goes: behind an ENDBR, which indirect calls need where IBT is enforced."""
    starts_with_endbr = kernel.memory.read(old, 4) == ENDBR64
    return old + 4 if starts_with_endbr and (kernel.state.has(IBT) or kernel.kernel.features.ibt) else old


def branches_into(kernel: SimulatedKernel, start: Address, end: Address) -> Iterator[Address]:
    """Addresses of relative branches with a target in [start, end), anywhere in the text that holds it.

    Found by the four or one bytes of their displacement, then proven by decoding
    the function that they stand in.
    """
    region = kernel.memory.region(start)
    lowest, highest = kernel.facts.text if "[" in region.name else (region.base, region.end)
    text = kernel.memory.read(lowest, highest - lowest)
    suspects = set()
    for opcode in (b"\xe8", b"\xe9"):
        at = text.find(opcode)
        while at >= 0:
            if at + 5 <= len(text) and start <= lowest + at + 5 + relative(text, at + 1) < end:
                suspects.add(lowest + at)
            at = text.find(opcode, at + 1)
    for at in range(max(start - lowest - 130, 0), min(end - lowest + 130, len(text) - 2)):
        if (text[at] == 0xEB or text[at] & 0xF0 == 0x70 or 0xE0 <= text[at] <= 0xE3) and start <= (
            lowest + at + 2 + struct.unpack_from("b", text, at + 1)[0]
        ) < end:
            suspects.add(lowest + at)
    at = text.find(b"\x0f")
    while at >= 0:
        is_jcc = at + 6 <= len(text) and text[at + 1] & 0xF0 == 0x80
        if is_jcc and start <= lowest + at + 6 + relative(text, at + 2) < end:
            suspects.add(lowest + at)
        at = text.find(b"\x0f", at + 1)
    for suspect in sorted(suspects):
        if _is_instruction(kernel, suspect):
            yield suspect


def _is_instruction(kernel: SimulatedKernel, address: Address) -> bool:
    """Whether an instruction begins at `address`, seen from the start of its function."""
    begin = kernel.symbols.function_start(address)
    if begin is None:
        return False
    code = kernel.memory.read(begin, kernel.symbols.function_size(begin))
    return any(begin + at == address for at, _, _ in instructions(code, begin))


def patched_places(kernel: SimulatedKernel, start: Address, end: Address) -> Iterator[tuple[str, Address]]:
    """What the kernel keeps track of in [start, end): traced entries, jump labels, static calls, exceptions."""
    region = kernel.memory.region(start)
    name = region.name.partition(":")[0]
    places = kernel.ftrace_of(name)
    at = bisect_left(places, start - 4)
    while at < len(places) and places[at] < end:
        redirected = any(r.place == places[at] for r in kernel.redirections.values())
        if redirected:
            yield "livepatched entry", places[at]
        at += 1
    loaded = kernel.modules.get(name)
    for table, layout, what in (("__jump_table", JUMP, "jump label"), (".static_call_sites", SITE, "static call")):
        if loaded is not None:
            section = loaded.section(table)
            bounds = (section.address, section.end) if section is not None else None
        else:
            symbols = [kernel.symbols.address(f"__{side}_{table.removeprefix('.')}") for side in ("start", "stop")]
            bounds = (symbols[0], symbols[1]) if symbols[0] is not None and symbols[1] is not None else None
        if bounds is None:
            continue
        content = kernel.memory.read(bounds[0], bounds[1] - bounds[0])
        for offset, row in zip(range(0, len(content), layout.size), layout.iter_unpack(content), strict=False):
            code = bounds[0] + offset + row[0]
            if start - 4 <= code < end:
                yield what, code


def redirect(kernel: SimulatedKernel, old: Address, new: Address) -> Overwritten:
    """Overwrite the entry of `old` with a jump to `new`. LoadError names every objection."""
    found = objections(kernel, old)
    if found:
        raise LoadError("; ".join(found))
    place = entry(kernel, old)
    done = Overwritten(old, new, place, kernel.memory.read(place, JUMP_SIZE))
    kernel.memory.write(place, branch(JMP32, place, new))
    return done


def restore(kernel: SimulatedKernel, done: Overwritten) -> None:
    """Put the bytes back; LoadError where something else stands there by now."""
    if kernel.memory.read(done.place, JUMP_SIZE) != branch(JMP32, done.place, done.new):
        raise LoadError(f"the entry of {kernel.symbols.describe(done.old)} was overwritten by something else")
    kernel.memory.write(done.place, done.before)

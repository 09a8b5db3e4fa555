# Unicorn's own annotations are partial, and it does not name what it exports.
# mypy: disable-error-code="no-untyped-call, attr-defined, unused-ignore"
"""Both versions of a function, executed on equal inputs: what the map pairs for sure runs equally often.

    python -m tests.compare.executed [NAME ...] [--runs 60]

The functions are those that the shared pairs change. Neither runs in a kernel: registers and memory are random but for
the seed, so that both find the same, and a call does nothing but return what its target, its number and the seed say.
A pair of runs is compared where both make the same calls in the same order and end with the same value. That is
left out which finds other things there by right: functions whose arguments the compiler has chosen, that call
themselves, or that read other members of structures (constants beside registers that are not the stack's differ).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import random
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import unicorn
from rich.console import Console
from unicorn import x86_const as x86

from builder.compare import Atom, Comparison
from builder.compare.instruction_map import LEAST, instruction_map
from builder.compare.unit import UnitLine, unit
from builder.compare.view import View
from builder.errors import Allowed
from builder.pipeline import diff
from tests.conftest import data_root

PAGE: Final = 0x1000
CODE, STUBS, DATA, HEAP, STACK, PERCPU = 0x1000000, 0x8000000, 0x10000000, 0x100000000, 0x7F0000000000, 0x300000000
STUBS_SIZE, STACK_SIZE, PERCPU_SIZE, OBJECTS, OBJECT_SIZE = 0x400000, 0x40000, 0x40000, 64, 0x4000
RETURN: Final = STUBS + STUBS_SIZE // 2
BUDGET, MOST_CALLS, MOST_PAGES = 6000, 300, 20
GENERAL: Final = tuple(
    getattr(x86, f"UC_X86_REG_{name}")
    for name in [
        "RAX",
        "RCX",
        "RDX",
        "RBX",
        "RSP",
        "RBP",
        "RSI",
        "RDI",
        "R8",
        "R9",
        "R10",
        "R11",
        "R12",
        "R13",
        "R14",
        "R15",
    ]
)
RAX, RDX, RSP, RSI, RDI = (GENERAL[k] for k in (0, 2, 4, 6, 7))
CLOBBERED: Final = tuple(GENERAL[k] for k in (1, 2, 6, 7, 8, 9, 10, 11))
THUNK: Final = "__x86_indirect_thunk_"
NEVER_RETURN: Final = ("__stack_chk_fail", "panic", "fortify_panic", "do_exit", "kthread_exit", "make_task_dead")
OWN_CONVENTION: Final = (".isra", ".constprop", ".part")


def number(*what: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "little")


@dataclass
class World:
    """Addresses of what both versions refer to, by what it means."""

    at: dict[tuple[object, bool], int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def address(self, meaning: object, is_code: bool) -> int:
        key = meaning, is_code
        if key not in self.at:
            count = len(self.at)
            self.at[key] = STUBS + 16 * count if is_code else DATA + PAGE * count
            self.names[self.at[key]] = str(meaning)
        return self.at[key]


class Version:
    """One version of a function, relocated: `lines` as the map numbers them."""

    def __init__(self, comparison: Comparison, view: View, parts: tuple[Atom, ...], world: World) -> None:
        self.lines = unit(comparison, view, parts)
        base, end = {}, CODE
        for part in parts:
            base[part] = end
            end += (part.end - part.entry + PAGE - 1) & -PAGE
        self.end = end
        code = bytearray(end - CODE)
        for part in parts:
            start = base[part] - CODE
            code[start : start + part.end - part.entry] = part.section.data[part.entry : part.end]
            for r in view.relocations(part):
                bias, row = view.bias(part, r), view.row(part.section, r)
                target = view.target(r, bias)
                if target.atom is not None and target.atom in parts:
                    place = base[target.atom] + target.offset
                else:
                    insn = view.instruction_at(part, r.offset)
                    meaning = comparison.meanings.of(view, part, r, lines=True)
                    place = world.address(meaning, insn is not None and (insn.is_call or insn.is_jump))
                at = r.offset - part.entry
                value = place - (base[part] + at + bias) if row.pc_relative else place
                mask = (1 << 8 * row.size) - 1
                code[start + at : start + at + row.size] = (value & mask).to_bytes(row.size, "little")
        self.code = bytes(code)
        self.entry = base[parts[0]]
        self.at = {base[line.part] + line.offset: k for k, line in enumerate(self.lines)}


@dataclass
class Run:
    """How often each line ran, which calls were made with what, and how it ended."""

    counts: Counter[int] = field(default_factory=Counter)
    calls: list[tuple[str, object]] = field(default_factory=list)
    end: str = ""
    value: int = 0

    @property
    def is_whole(self) -> bool:
        return self.end in ("returned", "never returns")

    def agrees(self, other: Run) -> bool:
        return (self.end, self.value, self.calls) == (other.end, other.value, other.calls)


@functools.lru_cache(256)
def memory(seed: int, what: str, size: int) -> bytes:
    """Zeros, small numbers, pointers into the heap, and some of any value; `what` they are in only tells them apart."""
    source = random.Random(f"{seed} {what}")
    pointers = [HEAP + k * OBJECT_SIZE + OBJECT_SIZE // 2 for k in range(OBJECTS)]
    small = [1, 2, 3, 4, 8, 16, 64, 0x1000]
    values = [0] * 44 + small * 7 + pointers + [source.randrange(1 << bits) for bits in (8, 40) for _ in range(12)]
    return struct.pack(f"<{size // 8}Q", *source.choices(values, k=size // 8))


def execute(version: Version, seed: int, world: World) -> Run:
    run, times, pages = Run(), Counter[str](), 0
    machine: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    heap, percpu = memory(seed, "heap", OBJECTS * OBJECT_SIZE), memory(seed, "percpu", PERCPU_SIZE)
    data = memory(seed, "data", (len(world.at) + 1) * PAGE)
    for start, content in ((HEAP, heap), (DATA, data), (PERCPU, percpu), (CODE, version.code)):
        machine.mem_map(start, len(content))
        machine.mem_write(start, content)
    machine.mem_map(STUBS, STUBS_SIZE)
    machine.mem_map(STACK - STACK_SIZE, STACK_SIZE + PAGE)
    fill = (0, 0, 0, 1, 4)[seed % 5]
    machine.mem_write(STACK - STACK_SIZE, fill.to_bytes(8, "little") * ((STACK_SIZE + PAGE) // 8))

    def stop(why: str) -> None:
        run.end = why
        machine.emu_stop()

    def back() -> None:
        stack = machine.reg_read(RSP)
        to = int.from_bytes(machine.mem_read(stack, 8), "little")
        machine.reg_write(RSP, stack + 8)
        machine.reg_write(x86.UC_X86_REG_RIP, to)
        if to == RETURN:
            stop("returned")

    def on_code(_uc: Any, address: int, _size: int, _data: Any) -> None:
        line = version.at.get(address)
        if line is None:
            stop("is lost")
        else:
            run.counts[line] += 1

    def on_stub(_uc: Any, address: int, _size: int, _data: Any) -> None:
        name = world.names.get(address, "")
        if address == RETURN:
            stop("returned")
            return
        if "__fentry__" in name or "__x86_return_thunk" in name:
            back()
            return
        if THUNK in name:
            register = name.partition(THUNK)[2].partition("'")[0].upper()
            to = machine.reg_read(getattr(x86, f"UC_X86_REG_{register}"))
            if CODE <= to < version.end:
                machine.reg_write(x86.UC_X86_REG_RIP, to)
                return
            name = f"at {to:#x}"
        first = machine.reg_read(RDI)
        on_stack = STACK - STACK_SIZE <= first < STACK + PAGE
        run.calls.append((name, "stack" if on_stack else first))
        times[name] += 1
        if any(word in name for word in NEVER_RETURN):
            stop("never returns")
            return
        if len(run.calls) > MOST_CALLS:
            stop("calls too much")
            return
        chance = number(seed, name, times[name])
        pointer = HEAP + (chance >> 8) % OBJECTS * OBJECT_SIZE + OBJECT_SIZE // 2
        values = (0, 0, 0, 0, pointer, pointer, pointer, pointer, 1, (1 << 64) - (1, 12, 22, 11)[(chance >> 8) % 4])
        machine.reg_write(RAX, values[chance % 10])
        for register in CLOBBERED:
            machine.reg_write(register, 0)
        back()

    def on_absent(_uc: Any, access: int, address: int, size: int, _value: int, _data: Any) -> bool:
        """Memory that nothing has asked for yet, but at the first page and where no address can be."""
        nonlocal pages
        there = False
        for page in {address & -PAGE, (address + size - 1) & -PAGE}:
            if access == unicorn.UC_MEM_FETCH_UNMAPPED or pages >= MOST_PAGES or not PAGE <= page < 1 << 47:
                return False
            try:
                machine.mem_map(page, PAGE)
            except unicorn.UcError:
                continue  # the other half of what crosses a page
            start = number(seed, page) % (len(heap) // PAGE) * PAGE
            machine.mem_write(page, heap[start : start + PAGE])
            there, pages = True, pages + 1
        return there

    machine.hook_add(unicorn.UC_HOOK_CODE, on_code, begin=CODE, end=version.end)
    machine.hook_add(unicorn.UC_HOOK_CODE, on_stub, begin=STUBS, end=STUBS + STUBS_SIZE)
    machine.hook_add(unicorn.UC_HOOK_MEM_UNMAPPED, on_absent)
    source = random.Random(seed)
    for register in GENERAL:
        pointer = HEAP + source.randrange(OBJECTS) * OBJECT_SIZE + OBJECT_SIZE // 2
        machine.reg_write(register, source.choice((0, 1, 2, pointer, pointer, pointer, source.randrange(1 << 16))))
    for register, share in ((RDI, 0.8), (RSI, 0.6)):
        if source.random() < share:
            machine.reg_write(register, HEAP + source.randrange(OBJECTS) * OBJECT_SIZE + OBJECT_SIZE // 2)
    machine.reg_write(RSP, STACK)
    machine.mem_write(STACK, RETURN.to_bytes(8, "little"))
    machine.reg_write(x86.UC_X86_REG_GS_BASE, PERCPU + PERCPU_SIZE // 2)
    try:
        machine.emu_start(version.entry, 0, count=BUDGET)
    except unicorn.UcError as error:
        run.end = str(error)
    run.value = machine.reg_read(x86.UC_X86_REG_EAX)
    return run


@dataclass
class Verdict:
    """Of one function: its instructions that ran, those of them without a sure place, and what was wrong."""

    executed: int = 0
    executed_unplaced: int = 0
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


def judge(comparison: Comparison, atom: Atom, runs: int) -> Verdict | None:
    """None where the two versions find other things by right."""
    twin = comparison.correlation.twins[atom]
    world = World()
    old = Version(comparison, comparison.old, (twin, *comparison.old_children.get(twin, ())), world)
    new = Version(comparison, comparison.new, (atom, *comparison.children.get(atom, ())), world)
    places = placed(comparison, atom, old, new)
    if any(word in atom.name for word in OWN_CONVENTION) or not comparable(old, new, places, atom):
        return None
    found = Verdict()
    executed, wrong = set[int](), dict[int, str]()
    for seed in range(runs):
        first = execute(old, seed, world)
        second = execute(new, seed, world) if first.is_whole else first
        if not first.is_whole or not first.agrees(second):
            continue
        found.runs += 1
        executed |= first.counts.keys()
        for k in range(1, len(old.lines)):
            there = sum(second.counts[j] for j in places.get(k, ()))
            if k in places and there != first.counts[k]:
                line = old.lines[k]
                text = f"{line.part.name}+{line.offset:#x} ran {first.counts[k]} times, {places[k]} {there}"
                wrong.setdefault(k, f"{text} (seed {seed})")
    found.executed = len(executed)
    found.executed_unplaced = sum(k not in places for k in executed if k)
    found.wrong = list(wrong.values())
    return found


def placed(comparison: Comparison, atom: Atom, old: Version, new: Version) -> dict[int, list[int]]:
    """Old line -> the new ones that a probe goes to."""
    olds, news = ({(line.part, line.offset): k for k, line in enumerate(v.lines)} for v in (old, new))
    unsure, out = set[int](), dict[int, list[int]]()
    table = instruction_map(comparison, atom)
    for row in (*table.pairs, *table.points):
        k = olds[row.old_part, row.old_offset]
        if row.confidence < LEAST:
            unsure.add(k)
        else:
            out.setdefault(k, []).append(news[row.new_part, row.new_offset])
    pointed = {olds[row.old_part, row.old_offset] for row in table.points}
    return {k: rows for k, rows in out.items() if k not in unsure or k in pointed}


def comparable(old: Version, new: Version, places: Mapping[int, list[int]], atom: Atom) -> bool:
    def moved(first: UnitLine, second: UnitLine) -> bool:
        a, b = first.operation, second.operation
        on_stack = bool((a.reads | b.reads) >> 4 & 1)
        return a.form == b.form and a.constants != b.constants and "memory" in a.form and not on_stack

    itself = f"'{atom.name}'"
    calls = [line for line in (*old.lines, *new.lines) if line.insn.is_call and itself in str(line.meanings)]
    return not calls and not any(moved(old.lines[k], new.lines[j]) for k, js in places.items() for j in js)


def pairs(root: Path) -> Iterator[tuple[str, Path]]:
    seen = set[str]()
    for folder in ("running-6.1.0-50/pairs", "corpus/pairs"):
        for place in sorted((root / folder).iterdir()):
            if place.name not in seen:
                seen.add(place.name)
                yield place.name, place


def judged(place: Path, runs: int) -> Iterator[tuple[str, Verdict]]:
    """The functions that a pair changes, each with what came of it."""
    found = diff(place / "orig.o", place / "patched.o", allowed=Allowed(frozenset([("*", "*")])))
    for atom in found.selection.redirected:
        if atom in found.comparison.correlation.twins:
            verdict = judge(found.comparison, atom, runs)
            if verdict is not None:
                yield atom.name, verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compare.executed", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pairs (default: all)")
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    verdicts = []
    for name, place in pairs(data_root()):
        if options.names and name not in options.names:
            continue
        for function, verdict in judged(place, options.runs):
            verdicts.append(verdict)
            for text in verdict.wrong:
                console.print(f"{name}: {function}: {text}", markup=False)
    executed, unplaced = sum(v.executed for v in verdicts), sum(v.executed_unplaced for v in verdicts)
    wrong = sum(len(v.wrong) for v in verdicts)
    console.print(
        f"{len(verdicts)} functions in {sum(v.runs for v in verdicts)} runs of both versions that agree, {executed} "
        f"instructions executed: {wrong} as often in one version only, {unplaced} without a sure place "
        f"({unplaced / max(executed, 1):.1%})"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

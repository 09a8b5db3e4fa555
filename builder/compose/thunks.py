"""What takes the place of code that the kernel would patch too early: a jump to a thunk, which does the same later.

The kernel reads a module's jump labels before a key that another module owns is bound (builder/compose/late.py). The
site of such a label becomes a jump to a thunk behind the function, which tests the key itself and goes on where the
label would have. A call or jump that an alternative replaces, or puts there, goes by a thunk that is bound later.

A site of two bytes reaches no farther than 127 bytes. Where the thunk would lie beyond, instructions before or behind
the site make room for a longer jump: they move into the thunk, unless something else leads to one of them, or one means
another thing there. Or others within reach make room for a landing: a long jump to which only the site's short one
leads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from builder.arch import Instruction
from builder.binary import Relocation, SectionOffset, tables
from builder.compare import Atom, View
from builder.compose import references
from builder.compose.references import Piece
from builder.compose.selection import Selection

_NEAR: Final = 1 << 7
_MOST: Final = 4
"""Instructions on one side of a site that may move: more bytes than the longest jump has are of no use."""


@dataclass(frozen=True, slots=True)
class KeyTest:
    """A jump label that a thunk stands for: its `entry` in the table, its site [site, end) in its function's section.

    The instructions from `start` to the site are carried out `before` the test, those from its end to `moved` `behind`.
    Those of the `landing` make room for a long jump to where they moved, and one to the thunk, which the site leads to.
    """

    entry: tables.Entry
    start: SectionOffset
    site: SectionOffset
    end: SectionOffset
    moved: SectionOffset
    before: tuple[Instruction, ...] = ()
    behind: tuple[Instruction, ...] = ()
    landing: tuple[Instruction, ...] = ()

    @property
    def rooms(self) -> tuple[range, ...]:
        """What of the section is written over."""
        landing = range(self.landing[0].offset, self.landing[-1].end) if self.landing else range(0)
        return range(self.start, self.moved), landing


@dataclass(frozen=True, slots=True)
class LateBranch:
    """A call or jump of a function, or of an annex, whose operand at `field` of its section leads to a thunk."""

    place: Atom | Piece
    field: SectionOffset


class Thunks:
    """The thunks of one pair, as far as they have been asked for."""

    def __init__(self, selection: Selection) -> None:
        self.view: View = selection.view
        self.selection = selection
        self.tests: dict[Atom, list[KeyTest]] = {}
        self.branches: dict[LateBranch, None] = {}
        self._led_to = cache(self._find_led_to)

    def key_test(self, entry: tables.Entry) -> KeyTest | None:
        """Stand for a jump label; None where its site has no room for a jump to the thunk."""
        view, atom = self.view, self.view.owner(entry)
        if atom is None:
            return None
        at = SectionOffset(view.obj.symbols[entry.site.symbol].value + entry.site.addend)
        site = view.instruction_at(atom, at)
        if site is None or site.offset != at or not (site.is_nop or site.is_jump):
            return None
        code, end, rows = view.arch.thunks, SectionOffset(site.end), self.tests.setdefault(atom, [])
        plain = KeyTest(entry, at, at, end, end)
        distance = thunk_offset(view, atom, [*rows, plain]) - at - len(code.short_jump)
        if site.length >= len(code.jump) or (site.length == len(code.short_jump) and distance < _NEAR):
            rows.append(plain)
            return plain
        for before, behind in self._beside(atom, site):
            start = SectionOffset(before[0].offset if before else at)
            moved = SectionOffset(behind[-1].end if behind else end)
            insns = (*before, site, *behind)
            if moved - start >= len(code.jump) and self._may_move(atom, insns, site):
                rows.append(KeyTest(entry, start, at, end, moved, before, behind))
                return rows[-1]
        for landing in self._landings(atom, site) if site.length == len(code.short_jump) else ():
            rows.append(replace(plain, landing=landing))
            return rows[-1]
        return None

    def branch(self, place: Atom | Piece, field: SectionOffset) -> bool:
        """Lead a call or jump to a thunk; False for what is neither."""
        arch, section = self.view.arch, place.section
        insns = arch.decode(section.data[place.start : place.end], place.start)
        insn = next((i for i in insns if i.offset <= field < i.end), None)
        # One that hangs on a condition is none that the kernel would move with an alternative.
        plain = (arch.thunks.call, arch.thunks.jump[0])
        if insn is None or field != insn.end - 4 or section.data[insn.offset] not in plain:
            return False
        self.branches[LateBranch(place, field)] = None
        return True

    def _beside(
        self, atom: Atom, site: Instruction
    ) -> Iterator[tuple[tuple[Instruction, ...], tuple[Instruction, ...]]]:
        """Runs of instructions right before and right behind a site, the fewest first."""
        insns = self.view.instructions(atom)
        at = next(k for k, insn in enumerate(insns) if insn.offset == site.offset)
        counts = ((b, f) for b in range(min(_MOST, at) + 1) for f in range(min(_MOST, len(insns) - at - 1) + 1))
        for before, behind in sorted(counts, key=sum):
            yield tuple(insns[at - before : at]), tuple(insns[at + 1 : at + 1 + behind])

    def _landings(self, atom: Atom, site: Instruction) -> Iterator[tuple[Instruction, ...]]:
        """Runs of instructions that make room for two long jumps, the second of which a short one at the site reaches;
        the stack is unwound there as at the site."""
        insns, need = self.view.instructions(atom), len(self.view.arch.thunks.jump)
        state = self._unwound_by(atom, site.offset)
        for k, first in enumerate(insns):
            if not -_NEAR <= first.offset + need - site.end < _NEAR or self._unwound_by(atom, first.offset) != state:
                continue
            run = tuple(insns[k : k + 2 * need])
            count = next((n for n in range(1, len(run) + 1) if run[n - 1].end - first.offset >= 2 * need), None)
            if count is not None and site not in run[:count] and self._may_move(atom, run[:count]):
                yield run[:count]

    def _unwound_by(self, atom: Atom, at: int) -> bytes:
        """The unwinder's row that holds at an offset; empty where there is none."""
        view = self.view
        rows = [e for e in view.entries(atom) if e.table.paired]
        before = [(p, e) for e in rows if (p := view.target(e.site).place) <= at]
        if not before:
            return b""
        section, start, end = tables.companion(view.obj, max(before, key=lambda row: row[0])[1])
        return section.data[start:end]

    def _may_move(self, atom: Atom, insns: Sequence[Instruction], site: Instruction | None = None) -> bool:
        """Whether all instructions of a run but the site may move, and nothing leads into the middle of it."""
        start, end = insns[0].offset, insns[-1].end
        others = {place for other in self.tests[atom] for room in other.rooms for place in room}
        led, fixed, unwound = self._led_to(atom)
        return (
            others.isdisjoint(range(start, end))
            and led.isdisjoint(range(start + 1, end))
            and (fixed - {site.offset if site is not None else -1}).isdisjoint(range(start, end))
            and unwound.isdisjoint(range(start + 1, end + 1))
            and not any(insn.ends_block for insn in insns[:-1] if insn is not site)
            and all(insn is site or self._is_movable(atom, insn) for insn in insns)
        )

    def _is_movable(self, atom: Atom, insn: Instruction) -> bool:
        """Whether an instruction does the same elsewhere, once what it refers to is led there."""
        view, arch = self.view, self.view.arch
        code = atom.section.data[insn.offset : insn.end]
        if insn.target is not None:
            return arch.long_branch(code) is not None and atom.start <= insn.target < atom.end
        if arch.writes(code) & {arch.stack_register, arch.frame_register}:
            return False  # what unwinds the stack would have to follow
        found = view.references(atom, insn)
        if any(target.name == arch.fentry for _, target in found):
            return False
        return bool(found) or not (arch.is_relative(code) or insn.is_call or insn.is_jump)

    def _find_led_to(self, atom: Atom) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
        """Offsets in an atom's section: what something leads to; what stands in a table, which goes by its place;
        where the unwinder's table has a row."""
        view, section = self.view, atom.section.index
        led = {i.target for part in view.atoms_in(section) if part.is_function for i in view.instructions(part)}
        found = [view.leads_of(other) for other in view.atoms]
        found += [tuple(references.of_piece(view, piece)) for piece in self.selection.pieces]
        led |= {t.place for rows in found for _, t in rows if t.section is not None and t.section.index == section}
        fixed, unwound = set[int](), set[int]()
        for entry in view.entries(atom):
            for r, target in references.of_entry(view, entry):
                if target.section is None or target.section.index != section:
                    continue
                if r is not entry.site:
                    led.add(target.place)
                elif entry.table.paired:
                    unwound.add(target.place)
                elif not entry.table.follows:
                    fixed.add(target.place)
        return frozenset(place for place in led if place is not None), frozenset(fixed), frozenset(unwound)


def is_beyond(view: View, atom: Atom, r: Relocation) -> bool:
    """Whether a short branch cannot reach a long jump behind its function, with those of all others before it."""
    shorts = [row for row in view.relocations(atom) if row.type == view.arch.pc8]
    last = atom.end + len(view.arch.thunks.jump) * (len(shorts) - 1)
    return r.type == view.arch.pc8 and last - (r.offset + 1) >= _NEAR


def moved_size(view: View, atom: Atom, insns: Sequence[Instruction]) -> int:
    """Bytes of instructions that have moved: a jump to another place of its function becomes a long one."""
    return sum(len(moved_branch(view, atom, i)) if i.target is not None else i.length for i in insns)


def moved_branch(view: View, atom: Atom, insn: Instruction) -> bytes:
    """The long form of a jump, its operand zero."""
    found = view.arch.long_branch(atom.section.data[insn.offset : insn.end])
    assert found is not None, "planned without asking"
    return found


def thunk_size(view: View, atom: Atom, test: KeyTest) -> int:
    """Bytes of a thunk: the test, the jump that hangs on it, what is around them, the jump back; the landing's."""
    code = view.arch.thunks
    landing = moved_size(view, atom, test.landing) + len(code.jump) if test.landing else 0
    moved = moved_size(view, atom, (*test.before, *test.behind))
    return len(code.test) + len(code.if_on) + moved + len(code.jump) + landing


def thunk_offset(view: View, atom: Atom, tests: Sequence[KeyTest]) -> int:
    """Where the thunk of the last of `tests` begins, as an offset in the section: behind a filler that is no code, and
    behind the long jumps that short branches lead to."""
    shorts = sum(r.type == view.arch.pc8 for r in view.relocations(atom))
    before = atom.end + len(view.arch.thunks.jump) * shorts + len(view.arch.filler)
    return before + sum(thunk_size(view, atom, test) for test in tests[:-1])

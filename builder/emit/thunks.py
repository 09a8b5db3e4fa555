"""Thunks put in where builder/compose/thunks.py has planned them, each with its row for who unwinds the stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builder.arch import Architecture, Instruction
from builder.binary import elf, tables
from builder.compare import Atom
from builder.compose.bound import Bound
from builder.compose.bundle import Bundle
from builder.compose.thunks import KeyTest, LateBranch, moved_branch, thunk_offset
from builder.emit.fragments import Fragment, Key, Label, Reference

_UNWIND = ".orc_unwind_ip"
_FIELD = 4


def add(bundle: Bundle, number: int, arch: Architecture, fragments: Sequence[Fragment]) -> Sequence[Fragment]:
    """The `fragments` of one pair with its thunks; the entries of the table that they stand for have gone."""
    bound = bundle.pairs[number]
    if bound.thunks is None:
        return fragments
    woven = _Woven(bundle, arch, number, bound, {fragment.key: fragment for fragment in fragments})
    woven.short_branches()
    woven.key_tests()
    woven.late_branches()
    return list(woven.fragments.values())


class _Woven:
    """The thunks of one pair; `fragments` are its own, by key and in order, and are changed."""

    def __init__(
        self,
        bundle: Bundle,
        arch: Architecture,
        number: int,
        bound: Bound,
        fragments: dict[Key, Fragment],
    ) -> None:
        assert bound.thunks is not None
        self.bundle = bundle
        self.arch = arch
        self.number = number
        self.bound = bound
        self.planned = bound.thunks
        self.fragments = fragments
        self.view = bound.diff.selection.view
        self._unwinding = _unwind_rows(fragments)  # whose fragments no thunk changes

    def short_branches(self) -> None:
        """A long jump behind the function for each short branch to a neighbour in the section that it came from."""
        for atom in self.bound.diff.selection.functions:
            fragment = self.fragments[self.number, atom]
            for short in [r for r in fragment.references if r.type == self.arch.pc8]:
                fragment = self.fragments[fragment.key]
                code, at = self.arch.thunks.jump, len(fragment.data)
                distance = (at - short.offset - 1).to_bytes(1, "little", signed=True)
                data = fragment.data[: short.offset] + distance + fragment.data[short.offset + 1 :] + code
                meant = Reference(at + len(code) - _FIELD, self.arch.pc32, short.to, short.addend + 1 - _FIELD)
                references = tuple(r for r in fragment.references if r is not short)
                self.fragments[fragment.key] = fragment._replace(
                    data=data, size=len(data), references=(*references, meant)
                )
                self._unwind(fragment, short.offset, fragment.key, at)

    def key_tests(self) -> None:
        for atom, tests in self.planned.tests.items():
            if not tests:
                continue  # none had room
            for count in range(1, len(tests) + 1):
                self._key_test(atom, tests[:count])
            code = self.fragments[self.number, atom]
            start = thunk_offset(self.view, atom, tests[:1]) - atom.start
            label = Label(f"{self.bundle.symbol(atom)}.keys", start, len(code.data) - start, elf.STT_FUNC)
            self.fragments[code.key] = code._replace(labels=(*code.labels, label))

    def _key_test(self, atom: Atom, tests: Sequence[KeyTest]) -> None:
        """The thunk of the last one of `tests`, behind those of the others."""
        test, code, pc32 = tests[-1], self.arch.thunks, self.arch.pc32
        fragment = self.fragments[self.number, atom]
        _, target, key = self.fragments.pop((self.number, test.entry)).references
        first, last = test.start - atom.start, test.moved - atom.start
        start = thunk_offset(self.view, atom, tests) - atom.start
        # The key's lowest bits say where the label leads while it is off (include/linux/jump_label.h, jump_entry_key).
        branch = code.if_off if key.addend & 1 else code.if_on
        where: dict[int, int] = {}
        body = self._moved(atom, test.before, start, where)
        tested = start + len(body)
        body += code.test + branch
        decided = start + len(body)
        body += self._moved(atom, test.behind, decided, where)
        body += _jump(code.jump, start + len(body), last)
        data = bytearray(fragment.data + self.arch.filler * (start - len(fragment.data)))
        jump = code.jump if last - first >= len(code.jump) else code.short_jump
        leads_to = start
        if test.landing:
            landed, here, ends = (
                start + len(body),
                *(p - atom.start for p in (test.landing[0].offset, test.landing[-1].end)),
            )
            body += self._moved(atom, test.landing, landed, where)
            body += _jump(code.jump, start + len(body), ends)
            leads_to = here + len(code.jump)
            room = _jump(code.jump, here, landed) + _jump(code.jump, leads_to, start)
            data[here:ends] = room + self.arch.filler * (ends - here - len(room))
        site = _jump(jump, first, leads_to)
        data[first:last] = site + self.arch.filler * (last - first - len(site))
        rooms = {place - atom.start for room in test.rooms for place in room}
        references = [
            r._replace(offset=where.get(r.offset, r.offset))
            for r in fragment.references
            if r.offset in where or r.offset not in rooms
        ]
        references += [
            Reference(tested + code.test_field, pc32, key.to, (key.addend & ~3) - code.test_rest),
            Reference(decided - _FIELD, pc32, target.to, target.addend - _FIELD),
        ]
        self.fragments[fragment.key] = fragment._replace(
            data=bytes(data) + body,
            size=start + len(body),
            references=tuple(references),
        )
        self._follow(fragment, where)
        self._unwind(fragment, first, fragment.key, start)
        if test.landing:
            self._unwind(fragment, test.landing[0].offset - atom.start, fragment.key, landed)

    def _moved(self, atom: Atom, insns: Sequence[Instruction], at: int, where: dict[int, int]) -> bytes:
        """The instructions as they are at `at` of the fragment; `where` learns of each of their bytes where it is."""
        out = b""
        for insn in insns:
            here, there = insn.offset - atom.start, at + len(out)
            if insn.target is not None:
                long = moved_branch(self.view, atom, insn)
                distance = insn.target - atom.start - there - len(long)
                out += long[:-_FIELD] + distance.to_bytes(_FIELD, "little", signed=True)
            else:
                code = self.fragments[self.number, atom].data[here : here + insn.length]
                where |= {here + k: there + k for k in range(insn.length)}
                out += code
        return out

    def _follow(self, code: Fragment, where: Mapping[int, int]) -> None:
        """Lead table entries to the instructions that have moved."""
        for key, entry in list(self.fragments.items()):
            row = tables.BY_NAME.get(entry.entry_of)
            if row is None or not row.follows or not entry.references or entry.references[0].to != code.key:
                continue
            site, *others = entry.references
            if (moved := where.get(site.addend + code.entry)) is not None:
                site = site._replace(addend=moved - code.entry)
                self.fragments[key] = entry._replace(references=(site, *others))

    def late_branches(self) -> None:
        """Calls and jumps that go by a thunk: it jumps on, with the caller's return address on the stack."""
        for branch in self.planned.branches:
            fragment = self.fragments[self.number, branch.place]
            offset = branch.field - branch.place.start
            (meant,) = (r for r in fragment.references if r.offset == offset)
            code = self.arch.thunks
            key: Key = (self.number, branch)
            name = f"{self._name(branch)}.late"
            self.fragments[key] = Fragment(
                key=key,
                section=".text",
                flags=elf.SHF_ALLOC | elf.SHF_EXECINSTR,
                nobits=False,
                align=1,
                entsize=0,
                data=code.jump,
                size=len(code.jump),
                references=(Reference(len(code.jump) - _FIELD, self.arch.pc32, meant.to, meant.addend),),
                labels=(Label(name, 0, len(code.jump), elf.STT_FUNC),),
                owner=fragment.owner,
            )
            led = Reference(offset, self.arch.pc32, key, -_FIELD)
            references = tuple(led if r is meant else r for r in fragment.references)
            self.fragments[fragment.key] = fragment._replace(references=references)
            entered = next(
                (f for f in self.fragments.values() if self._unwinding.get(f.key) and f.entry_of == ""), None
            )
            if entered is not None:
                self._unwind(entered, entered.entry, key, 0)

    def _name(self, branch: LateBranch) -> str:
        place = branch.place
        return self.bundle.symbol(place) if isinstance(place, Atom) else f"alternative.{place.start:x}"

    def _unwind(self, code: Fragment, at: int, thunk: Key, offset: int) -> None:
        """For the thunk at `offset` of a fragment what holds at `at` in `code`, where anything is told of that."""
        rows = self._unwinding.get(code.key, ())
        row = max((r for r in rows if r[0] <= at - code.entry), default=None, key=lambda r: r[0])
        if row is None:
            return
        _, place, paired = row
        entry = self.fragments[thunk].entry
        (site,) = place.references
        ours = (thunk, _UNWIND, offset)
        site = site._replace(to=thunk, addend=offset - entry)
        self.fragments[ours] = place._replace(key=ours, references=(site,))
        self.fragments[*ours, "paired"] = paired._replace(key=(*ours, "paired"))


def _jump(code: bytes, at: int, to: int) -> bytes:
    """A jump at `at` of a fragment to another place in it; its operand is what follows the first byte."""
    distance = to - at - len(code)
    return code[:1] + distance.to_bytes(len(code) - 1, "little", signed=True)


def _unwind_rows(fragments: Mapping[Key, Fragment]) -> dict[Key, list[tuple[int, Fragment, Fragment]]]:
    """By the key of code its rows of the unwinder's table: (place from the entry, place's fragment, row's fragment)."""
    out: dict[Key, list[tuple[int, Fragment, Fragment]]] = {}
    for key, fragment in fragments.items():
        if fragment.entry_of == _UNWIND and isinstance(key, tuple):
            (site,) = fragment.references
            out.setdefault(site.to, []).append((site.addend, fragment, fragments[*key, "paired"]))
    return out

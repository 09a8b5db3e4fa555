"""Run-pre matching: is the old function of a pair the code that runs?

Each instruction of the old object's function is held against the running
bytes, relocations solved backwards: what the running code refers to tells where
each symbol of the object really is, which also decides between symbols of one
name. The idea is Ksplice's (Arnold and Kaashoek, EuroSys 2009).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.arch import Instruction
from builder.binary import Relocation, klp
from builder.compare import Atom, View, naming
from builder.compare.view import Target
from builder.compose.running import Extern, Running

_SLACK = 64
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Match:
    """A function found: `place` and what its references say of other symbols.

    `solved` maps atoms of the old object to their places, `names` undefined
    symbols to theirs. `externs` maps atoms to the names of symbols that the
    running object itself takes from elsewhere. `since` names the earlier
    livepatch whose version it is and `base` its symbol there; both are empty for the original.
    """

    atom: Atom
    place: int
    sympos: int
    name: str
    solved: Mapping[Atom, int] = field(default_factory=dict)
    names: Mapping[str, int] = field(default_factory=dict)
    externs: Mapping[Atom, str] = field(default_factory=dict)
    since: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why the running code at a place is not the old function."""

    reason: str


class _Differs(Exception):
    """The first difference that was met."""


class Matcher:
    """Matches functions of one old object against one running object."""

    def __init__(self, view: View, running: Running) -> None:
        self.view = view
        self.running = running

    def match(self, atom: Atom, place: int, *, name: str, sympos: int, limit: int = 0) -> Match | Mismatch:
        """Hold `atom` against the running code at `place`; `limit` bounds its size there if known."""
        size = atom.end - atom.entry
        code = self.running.code(place, min(size + _SLACK, limit) if limit else size + _SLACK)
        attempt = _Attempt(self.view, self.running, atom, place, code)
        try:
            attempt.compare()
        except _Differs as found:
            return Mismatch(str(found))
        return Match(atom, place, sympos, name, attempt.solved, attempt.names, attempt.externs)

    def all_of(self, atom: Atom) -> tuple[list[Match], list[Mismatch]]:
        """`atom` held against everything that has a name of it: a match for each place, and why others are none."""
        found: dict[int, Match] = {}
        reasons: list[Mismatch] = []
        for name in atom.names:
            for symbol in self.running.named(name):
                result = self.match(atom, symbol.place, name=name, sympos=symbol.sympos, limit=symbol.size)
                if isinstance(result, Mismatch):
                    reasons.append(result)
                else:
                    found.setdefault(symbol.place, result)
        return list(found.values()), reasons


class _Attempt:
    """One function held against `code`, the bytes that run at `place`; what its references tell comes together."""

    def __init__(self, view: View, running: Running, atom: Atom, place: int, code: bytes) -> None:
        self.view = view
        self.running = running
        self.atom = atom
        self.place = place
        self.code = code
        self.before = [i for i in view.instructions(atom) if not i.is_nop]
        self.after = [i for i in view.arch.decode(code, 0) if not i.is_nop]
        self.solved: dict[Atom, int] = {}
        self.names: dict[str, int] = {}
        self.externs: dict[Atom, str] = {}

    def compare(self) -> None:
        """Raises _Differs with the first difference."""
        atom, after = self.atom, self.after
        labels = self._label_sites()
        relocations = self.view.relocations(atom)
        offsets = [r.offset for r in relocations]
        starts_a, starts_b = _ordinals(self.before), _ordinals(after)
        k = 0
        for a in self.before:
            if k >= len(after):
                if a.offset in labels:
                    continue
                raise _Differs(f"the running function ends before {atom.name}+{a.offset - atom.entry:#x}")
            b = after[k]
            rows = relocations[bisect_left(offsets, a.offset) : bisect_left(offsets, a.end)]
            if a.offset in labels and not (b.is_jump and a.mnemonic == b.mnemonic):
                continue  # a jump in the object, a NOP in the image (objtool --hacks=jump_label)
            k += 1
            if a.mnemonic != b.mnemonic or bool(a.target is None) != bool(b.target is None):
                raise self._differ(a, b)
            if a.target is not None and not rows:
                if not self._leads_alike(a, b, starts_a, starts_b):
                    raise self._differ(a, b)
                continue
            if not rows:
                if atom.section.data[a.offset : a.end] != self.code[b.offset : b.end]:
                    raise self._differ(a, b)
                continue
            self._with_relocations(a, b, rows)

    def _label_sites(self) -> frozenset[int]:
        return frozenset(
            e.site.addend + self.view.obj.symbols[e.site.symbol].value
            for e in self.view.entries(self.atom)
            if e.table.name == "__jump_table"
        )

    def _leads_alike(self, a: Instruction, b: Instruction, starts_a: dict[int, int], starts_b: dict[int, int]) -> bool:
        """Branches inside the function lead to the same ordinal; out of it they are not judged."""
        if a.target is None or not self.atom.entry <= a.target < self.atom.end:
            return True
        x, y = _ordinal(starts_a, a.target), _ordinal(starts_b, b.target or 0)
        # Jump labels that are NOPs in one of them shift the count; the distance decides then.
        return (x is not None and x == y) or (a.target - a.offset) == ((b.target or 0) - b.offset)

    def _with_relocations(self, a: Instruction, b: Instruction, rows: list[Relocation]) -> None:
        """The instructions are the same but for relocated bytes, and these lead to the same things."""
        atom, view = self.atom, self.view
        relaxed = a.length != b.length
        for r in rows:
            row = view.row(atom.section, r)
            if not row.size:
                continue
            if relaxed:
                if b.target is None:
                    raise self._differ(a, b)
                found: int | Extern = (self.place + b.target) & _MASK  # a branch back is a large number
            else:
                found = self.running.target(self.place + b.offset, b, r.offset - a.offset, row.size, row.pc_relative)
            problem = self._refers(view.target(r, view.bias(atom, r)), found)
            if problem:
                raise _Differs(f"{atom.name}+{a.offset - atom.entry:#x} {problem}")
        if relaxed and any(view.row(atom.section, r).size for r in rows):
            return
        mine = view.cleared(atom.section.data[a.offset : a.end], atom.section, a.offset, rows)
        if mine != view.cleared(self.code[b.offset : b.end], atom.section, a.offset, rows):
            raise self._differ(a, b)

    def _refers(self, target: Target, found: int | Extern) -> str:
        """Whether the running reference is the object's; notes where the symbol is. Empty if it is."""
        if isinstance(found, Extern):
            return self._refers_elsewhere(target, found)
        # The sum wraps: __pa_symbol() is an addend of 0x80000000 to an address near the end of 64 bits.
        if target.kind == "symbol":
            start = found - target.offset & _MASK
            known = self.running.named(target.symbol.name)
            if known and all(s.place != start for s in known):
                return f"refers to {target.symbol.name}, the running code to {self._name(start)}"
            self.names[target.symbol.name] = start
            return ""
        if target.atom is not None:
            begin = self._start_of(target.atom, target.offset, found)
            return self._is_at(target.atom, found - target.offset & _MASK if begin is None else begin)
        if target.section is not None and target.section.is_string:
            text, width = target.section.string_at(target.place)
            running = self.running.code(found, len(text) + width)  # with its end: what goes on is another text
            if running != text + bytes(width):
                return f"uses the text {text!r}, the running code {running!r}"
        return ""

    def _start_of(self, atom: Atom, offset: int, found: int) -> int | None:
        """Where the running function begins that has at `found` the instruction that `atom` has at an offset.

        Distances may differ: what is aligned to 32 bytes inside of a function has other padding before it where the
        function stands in a section of its own. None where no function of that name has it there.
        """
        if not atom.is_function or not offset:
            return None
        mine = _ordinal(_ordinals([i for i in self.view.instructions(atom) if not i.is_nop]), atom.entry + offset)
        for symbol in (row for name in atom.names for row in self.running.named(name)):
            if mine is None or not symbol.place < found < symbol.place + symbol.size:
                continue
            rows = self.view.arch.decode(self.running.code(symbol.place, symbol.size), 0)
            if _ordinal(_ordinals([i for i in rows if not i.is_nop]), found - symbol.place) == mine:
                return symbol.place
        return None

    def _refers_elsewhere(self, target: Target, found: Extern) -> str:
        """The same for what the running object itself takes from elsewhere."""
        name = target.name
        there = klp.parse_symbol(found.name).name if klp.is_symbol(found.name) else found.name
        if target.kind == "symbol" and (name, target.offset) != (there, found.offset):
            return f"refers to {name}, the running code to {there}"
        if target.atom is not None:
            if there != found.name and naming.family(there) not in {naming.family(n) for n in target.atom.names}:
                return f"refers to {name}, the running code to {there}"
            self.externs[target.atom] = found.name
        return ""

    def _is_at(self, atom: Atom, start: int) -> str:
        before = self.solved.setdefault(atom, start)
        if before != start:
            return f"refers to {atom.name} at two places"
        here = {s.name for s in self.running.at(start)}
        if not here or here & set(atom.names):
            return ""
        families = {naming.family(n) for n in atom.names}
        if any(naming.family(n) in families for n in here):
            return ""
        known = any(self.running.named(n) for n in atom.names)
        return f"refers to {atom.name}, the running code to {self._name(start)}" if known else ""

    def _name(self, place: int) -> str:
        return next((s.name for s in self.running.at(place)), f"{place:#x}")

    def _differ(self, a: Instruction, b: Instruction) -> _Differs:
        atom, text = self.atom, self.view.arch.text
        mine = text(atom.section.data[a.offset : a.end], a.offset - atom.entry)
        other = text(self.code[b.offset : b.end], b.offset)
        return _Differs(f"differs at {atom.name}+{a.offset - atom.entry:#x}: `{mine}` in the object, `{other}` runs")


def _ordinals(rows: list[Instruction]) -> dict[int, int]:
    return {insn.offset: k for k, insn in enumerate(rows)}


def _ordinal(starts: dict[int, int], offset: int) -> int | None:
    """Number of the first counted instruction at or after an offset (a branch may lead to a NOP before it)."""
    for at in range(offset, offset + 16):
        if at in starts:
            return starts[at]
    return None

"""Correlation: which atom of the new object is the new version of which old one.

The widest unambiguous rule comes first. Names that a recompilation cannot
change decide at once; numbered clones go by their family; static locals go by
the functions that refer to them, in order, never by their number. An
ambiguous match is no match and is reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from builder.binary import String, SymbolIndex, elf
from builder.compare import naming
from builder.compare.atoms import Atom
from builder.compare.storage import lifetime
from builder.compare.uses import led_to, tell_apart
from builder.compare.view import View


@dataclass(frozen=True)
class Correlation:
    """`twins` maps atoms of the new object to those of the old one, `versions` the other way."""

    old: View
    new: View
    twins: Mapping[Atom, Atom]
    versions: Mapping[Atom, Atom]
    ambiguous: tuple[tuple[Atom, str], ...]

    def identity(self, atom: Atom) -> object:
        """Equal for an atom and its twin, and for nothing else."""
        if atom.is_global:
            return atom.symbol.name if not atom.symbol.is_local else _global_name(atom)
        other = self.twins.get(atom) or self.versions.get(atom)
        if other is not None and other.is_global:
            return self.identity(other)
        return id(self.twins.get(atom, atom))


def _global_name(atom: Atom) -> str:
    return next((n for n in atom.names if n), atom.name)


def correlate(old: View, new: View) -> Correlation:
    """Pair the atoms of two objects."""
    matcher = _Matcher(old, new)
    matcher.by_name()
    matcher.by_family()
    matcher.by_reference()
    return Correlation(old, new, matcher.twins, matcher.versions, tuple(matcher.ambiguous))


class _Matcher:
    def __init__(self, old: View, new: View) -> None:
        self.old, self.new = old, new
        self.twins: dict[Atom, Atom] = {}
        self.versions: dict[Atom, Atom] = {}
        self.ambiguous: list[tuple[Atom, str]] = []

    def pair(self, old: Atom, new: Atom) -> bool:
        """Record a pair unless one of them is taken, or one lives longer: what has left .init has no live original."""
        if new in self.twins or old in self.versions or lifetime(old.section.name) is not lifetime(new.section.name):
            return False
        self.twins[new] = old
        self.versions[old] = new
        return True

    def by_name(self) -> None:
        """Names without a number, unique on both sides (by FILE symbol where they are not)."""
        for of in (_stable_functions, _stable_data):
            table: dict[tuple[str, str], list[Atom]] = defaultdict(list)
            for key, atom in _named(self.old, of(self.old)):
                table[key].append(atom)
            fresh: dict[tuple[str, str], list[Atom]] = defaultdict(list)
            for key, atom in _named(self.new, of(self.new)):
                fresh[key].append(atom)
            for key, atoms in fresh.items():
                others = table.get(key, [])
                if len(atoms) == len(others) == 1:
                    self.pair(others[0], atoms[0])
                elif others and atoms:
                    self.ambiguous.append((atoms[0], f"{len(others)} old and {len(atoms)} new symbols of this name"))

    def by_family(self) -> None:
        """Clones and parts of functions: `foo.isra.3` is `foo.isra.0` if each side has one."""

        def of(view: View) -> Iterator[Atom]:
            return (a for a in view.functions if naming.is_numbered(a.name))

        olds: dict[str, list[Atom]] = defaultdict(list)
        for atom in of(self.old):
            if atom not in self.versions:
                olds[naming.family(atom.name)].append(atom)
        news: dict[str, list[Atom]] = defaultdict(list)
        for atom in of(self.new):
            if atom not in self.twins:
                news[naming.family(atom.name)].append(atom)
        for name, atoms in news.items():
            others = olds.get(name, [])
            if len(atoms) == len(others) == 1:
                self.pair(others[0], atoms[0])
            elif len(atoms) > 1 and len(atoms) == len(others):
                self._several(others, atoms)
            elif others:
                self.ambiguous.append((atoms[0], f"{len(others)} old and {len(atoms)} new clones of {name}"))

    def _several(self, olds: list[Atom], news: list[Atom]) -> None:
        """Equally many clones: those with equal bytes, and the one that is left; their numbers tell nothing."""
        left = list(olds)
        rest = []
        for new in news:
            same = [o for o in left if self.old.code(o) == self.new.code(new)]
            if len(same) == 1 and self.pair(same[0], new):
                left.remove(same[0])
            else:
                rest.append(new)
        if len(left) == len(rest) == 1:
            self.pair(left[0], rest[0])
        elif rest:
            self.ambiguous.append((rest[0], f"{len(rest)} clones changed, and nothing tells them apart"))

    def by_reference(self) -> None:
        """Static locals: by the functions and data that refer to them."""
        old_refs, new_refs = _References(self.old, self.versions), _References(self.new, self.twins)
        pairs = [(o, n) for n, o in self.twins.items()]
        # Parents first: they see their `.cold` parts' references in order with their own.
        pairs.sort(key=lambda pair: naming.cold_parent(pair[1].name) is not None)
        if not old_refs.statics or not new_refs.statics:
            return
        uncertain = []
        for old, new in pairs:
            first, second = old_refs.direct(old), new_refs.direct(new)
            same = self.old.code(old) == self.new.code(new)
            if same and (first or second):
                same = _same_places(self.old, self.new, old, new)
            if not same:
                uncertain.append((old, new))
            else:
                for a, b in zip(first, second, strict=False):
                    if naming.family(a.name) == naming.family(b.name):
                        self._pair_static(a, b)
        used = [(old_refs.lifted(old), new_refs.lifted(new)) for old, new in uncertain]
        for _ in range(2):
            for olds, news in used:
                self._pair_by_use(olds, news)
        self._pair_by_use(_Lifted(old_refs.unused(), ()), _Lifted(new_refs.unused(), ()))
        self._report_unpaired(old_refs, new_refs)

    def _pair_by_use(self, olds: _Lifted, news: _Lifted) -> None:
        """Static locals of one name: one on each side, or several that size, content and use tell apart.

        Their order alone tells nothing: a block that moved takes its variables along.
        """
        open_olds, open_news = defaultdict(list), defaultdict(list)
        for atom in olds.statics:
            if atom not in self.versions:
                open_olds[naming.family(atom.name)].append(atom)
        for atom in news.statics:
            if atom not in self.twins:
                open_news[naming.family(atom.name)].append(atom)
        for name, fresh in open_news.items():
            before = open_olds.get(name, [])
            if len(before) == len(fresh) == 1:
                self._pair_static(before[0], fresh[0])
                continue
            self._pair_by_shape(before, fresh)
            before = [atom for atom in before if atom not in self.versions]
            fresh = [atom for atom in fresh if atom not in self.twins]
            if len(before) == len(fresh) and tell_apart(
                self.old, before, olds.functions, self.new, fresh, news.functions
            ):
                for old, new in zip(before, fresh, strict=True):
                    self._pair_static(old, new)

    def _pair_static(self, old: Atom, new: Atom) -> None:
        """Pair static locals; constants of other content have no state to share, and are two things."""
        first, second = _constant(self.old, old), _constant(self.new, new)
        if first is None or second is None or first == second:
            self.pair(old, new)

    def _pair_by_shape(self, olds: list[Atom], news: list[Atom]) -> None:
        """Different counts or another order: only what size, section kind and content tell apart."""
        for new in news:
            like = [o for o in olds if o not in self.versions and _shape(self.old, o) == _shape(self.new, new)]
            rivals = [n for n in news if n not in self.twins and _shape(self.new, n) == _shape(self.new, new)]
            if len(like) == 1 and len(rivals) == 1:
                self.pair(like[0], new)

    def _report_unpaired(self, old_refs: _References, new_refs: _References) -> None:
        olds = {naming.family(a.name) for a in old_refs.statics if a not in self.versions}
        for atom in new_refs.statics:
            if atom not in self.twins and naming.family(atom.name) in olds and atom.section.is_write:
                self.ambiguous.append((atom, "the old object has static locals of this name, none is plainly the same"))


@dataclass(frozen=True)
class _Lifted:
    """Static locals in order of first use, and the functions that use them."""

    statics: Sequence[Atom]
    functions: Sequence[Atom]


class _References:
    """Which static locals an atom refers to, in order of first use."""

    def __init__(self, view: View, matched: Mapping[Atom, Atom]) -> None:
        self.view = view
        self.matched = matched
        # In order of the object, which is that of the reports.
        self.statics = dict.fromkeys(a for a in view.data if _is_open_static(a))
        self._sections = frozenset(a.section.index for a in self.statics)

    def direct(self, atom: Atom) -> list[Atom]:
        """Static locals at each reference, repeated: comparable place by place."""
        return self._direct[atom]

    @cached_property
    def _direct(self) -> Mapping[Atom, list[Atom]]:
        return {
            atom: [a for a in led_to(self.view, atom, self._sections) if a in self.statics] for atom in self.view.atoms
        }

    def unused(self) -> list[Atom]:
        """Static locals that nothing refers to: the compiler folded their content into the code."""
        used = {found for row in self._direct.values() for found in row}
        return [a for a in self.view.data if a in self.statics and a not in used]

    def lifted(self, atom: Atom) -> _Lifted:
        """Static locals of the function, its `.cold` part and callees that exist on this side only.

        Inlining moves references between a function and its callers; a callee
        without a twin therefore counts as part of each of its callers.
        """
        order: dict[Atom, None] = {}
        seen = {atom: None}

        def visit(current: Atom) -> None:
            for target in led_to(self.view, current):
                if target in self.statics:
                    order.setdefault(target)
                elif target.is_function and target not in seen and self._belongs(target, atom):
                    seen[target] = None
                    visit(target)

        visit(atom)
        return _Lifted(list(order), tuple(found for found in seen if found.is_function))

    def _belongs(self, callee: Atom, caller: Atom) -> bool:
        parent = naming.cold_parent(callee.name)
        if parent is not None and parent in caller.names:
            return True
        return callee not in self.matched


def _same_places(old: View, new: View, a: Atom, b: Atom) -> bool:
    """Whether two atoms have the same bytes and relocations of the same kind at the same places."""
    if a.is_function != b.is_function or old.code(a) != new.code(b):
        return False
    first, second = old.relocations(a), new.relocations(b)
    return len(first) == len(second) and all(
        r.offset - a.start == s.offset - b.start and r.type == s.type for r, s in zip(first, second, strict=True)
    )


def _shape(view: View, atom: Atom) -> tuple[object, ...]:
    return (atom.size, atom.section.flags, atom.section.type, view.code(atom), len(view.relocations(atom)))


def _constant(view: View, atom: Atom) -> tuple[object, ...] | None:
    """Bytes and strings of read-only data that point to nothing else (messages, numbers, names); None for others."""
    if atom.section.is_write:
        return None
    rows: list[tuple[int, String]] = []
    for r in view.relocations(atom):
        target = view.target(r)
        if target.section is None or not target.section.is_string:
            return None
        rows.append((r.offset - atom.start, target.section.string_at(target.place)))
    return view.code(atom), tuple(rows)


def _is_open_static(atom: Atom) -> bool:
    """A static local that each recompilation may renumber and that has one identity over versions.

    clang numbers the second of a name: `function.name`, `function.name.1`, so the first may be another one, too.
    """
    return (
        not atom.is_global
        and not naming.is_label(atom.name)
        and (naming.is_numbered(atom.name) or naming.is_static_local(atom.name))
        and not naming.is_never_paired(atom.name, atom.section.name)
    )


def _stable_functions(view: View) -> Iterator[Atom]:
    return (a for a in view.functions if a.is_global or any(not naming.is_numbered(n) for n in a.names))


def _stable_data(view: View) -> Iterator[Atom]:
    return (
        a
        for a in view.data
        if a.is_global or not (_is_open_static(a) or naming.is_numbered(a.name))
        if a.is_global or not (naming.is_never_paired(a.name, a.section.name) or naming.is_label(a.name))
    )


def _named(view: View, atoms: Iterable[Atom]) -> Iterator[tuple[tuple[str, str], Atom]]:
    """(FILE, name) -> atom; FILE only matters where one object holds several files (ld -r)."""
    rows = list(atoms)
    count: dict[str, int] = defaultdict(int)
    for atom in rows:
        count[atom.name] += 1
    files = _files(view) if any(n > 1 for n in count.values()) else {}
    for atom in rows:
        stable = next((n for n in atom.names if not naming.is_numbered(n)), atom.name)
        best = next((s for s in _global_names(view, atom)), stable)
        yield (files.get(atom.symbol.index, "") if count[atom.name] > 1 else "", best), atom


def _global_names(view: View, atom: Atom) -> Iterator[str]:
    """The section's own name first: aliases come and go, the compiler's section name stays."""
    for name in atom.names:
        if atom.section.name.endswith("." + name) and not naming.is_numbered(name):
            yield name


def _files(view: View) -> dict[SymbolIndex, str]:
    current, out = "", {}
    for symbol in view.obj.symbols:
        if symbol.type == elf.STT_FILE:
            current = symbol.name
        elif symbol.is_local:
            out[symbol.index] = current
    return out

"""Whether names still lead to the same things: storage, aliases, addresses between two things, memory that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from builder.binary import Relocation, tables
from builder.compare import Atom, View, naming
from builder.compare.calls import given_to
from builder.compare.storage import Lifetime, kind, lifetime
from builder.compare.view import Target
from builder.compose import thunks
from builder.compose.selection import Selection
from builder.errors import Refusal

Findings = Iterator[Refusal]

# Code for one of these is wrong for the other: another way of addressing, or memory that cannot be written.
_FATAL_KINDS = frozenset({"per-CPU", "read-only after init", "read-only", "decrypted", "init", "exit"})

# What sections begin with that are freed once a module is up (module_init_section, kernel/module/main.c, v6.1).
_GONE_WITH_A_MODULES_START = ".init"


def storage(selection: Selection) -> Findings:
    """Things that are of another kind than the running ones: per-CPU, read-only after init, alignment, kind of code."""
    twins = selection.comparison.correlation.twins
    used = {target.atom for _, target in selection.all_references}
    for atom, old in twins.items():
        if _stored(old) == _stored(atom):
            continue
        was, now = kind(old.section), kind(atom.section)
        if was != now and (was, now) != ("plain", "read-only"):  # a const that came: the running one can be read
            fatal = not atom.is_function and atom in used and bool({was, now} & _FATAL_KINDS)
            yield Refusal(
                "storage-changed",
                atom.name,
                atom.section.name,
                f"{atom.name} was {was} ({old.section.name}) and is {now} ({atom.section.name}); "
                "the running one stays what it is",
                "give the new thing a name of its own",
                fatal=fatal,
            )
        elif _found_by(old) != _found_by(atom):
            yield Refusal(
                "storage-changed",
                atom.name,
                atom.section.name,
                f"{atom.name} was in {old.section.name} and is in {atom.section.name}, by whose name the kernel finds "
                "what is in it; the running one stays where it is",
                "give the new thing a name of its own",
                fatal=False,
            )
        elif not atom.is_function and _is_better_aligned(selection, atom, old):
            yield Refusal(
                "storage-changed",
                atom.name,
                atom.section.name,
                f"{atom.name} was aligned to {old.section.align} bytes and is aligned to {atom.section.align}; "
                "the running one stays where it is",
                "give the new variable a name of its own if code depends on its alignment",
                fatal=False,
            )


def _stored(atom: Atom) -> tuple[object, ...]:
    section = atom.section
    return section.name, section.type, section.flags, section.align


def _found_by(atom: Atom) -> str:
    """The section by whose name the kernel finds a thing; empty where it is found by its own."""
    row = tables.named(atom.section)
    return row.name if row is not None else ""


def _is_better_aligned(selection: Selection, atom: Atom, old: Atom) -> bool:
    """By the section's alignment, where that is the thing's own; compilers align larger things better by themselves."""
    comparison = selection.comparison
    alone = len(comparison.new.atoms_in(atom.section.index)) == len(comparison.old.atoms_in(old.section.index)) == 1
    return alone and atom.size == old.size and atom.section.align > old.section.align


def aliases(selection: Selection) -> Findings:
    """Names that lead to another thing, or to another place in the same one."""
    comparison = selection.comparison
    twins = comparison.correlation.twins
    before = _places(comparison.old)
    for name, (atom, offset, local) in _places(comparison.new).items():
        if name not in before:
            continue
        old, place, was_local = before[name]
        if local and was_local and not atom.name == name == old.name:
            continue  # whatever refers to it is in this file, and is compared by what it leads to
        if name in (atom.name, old.name) and (atom not in twins and old not in comparison.correlation.versions):
            continue  # what has no counterpart is judged as new, removed or ambiguous
        if twins.get(atom) is not old or not _same_place(selection, old, place, atom, offset):
            yield Refusal(
                "alias-changed",
                name,
                atom.section.name,
                f"{name} was another name of {old.name}{_plus(place)} and is one of {atom.name}{_plus(offset)}; "
                "whoever has its address, or calls it by an alias, goes on with the old one",
                "give the new alias a name of its own, or change the functions themselves",
            )


def _same_place(selection: Selection, old: Atom, place: int, new: Atom, offset: int) -> bool:
    """Whether two offsets in a thing and its twin are one place: in code by the instruction."""
    comparison = selection.comparison
    verdict = comparison.functions.get(new)
    if verdict is not None and verdict.is_changed:
        return not (place or offset)  # only the entry is redirected
    if place == offset or not new.is_function:
        return place == offset
    first = comparison.old.ordinal(old, old.entry + place)
    return first is not None and first == comparison.new.ordinal(new, new.entry + offset)


def _plus(offset: int) -> str:
    return f"+{offset:#x}" if offset else ""


@lru_cache(maxsize=65536)
def _says_nothing(name: str) -> bool:
    """Whether a name says nothing of what it leads to; clang numbers only the second static local of a name."""
    return naming.is_label(name) or naming.is_marker(name) or naming.is_numbered(name) or naming.is_static_local(name)


def _places(view: View) -> dict[str, tuple[Atom, int, bool]]:
    """Name -> the thing that it leads to, the offset in it, whether the name is local; unique ones, and none of the
    compiler's."""
    out: dict[str, tuple[Atom, int, bool]] = {}
    double: set[str] = set()
    for index, symbols in view.obj.symbols_in.items():
        for symbol in symbols:
            name = symbol.name
            if _says_nothing(name):
                continue
            atom = view.atom_at(index, symbol.value)
            if atom is None or naming.is_never_paired(atom.name, atom.section.name):
                continue
            if name in out:
                double.add(name)
            out[name] = (atom, symbol.value - atom.entry, symbol.is_local)
    return {name: place for name, place in out.items() if name not in double}


def borders(selection: Selection) -> Findings:
    """Addresses where one thing ends and the next begins, in code that does not tell which of them is meant."""
    view = selection.view
    for atom in selection.functions:
        for r, target in view.leads_of(atom):
            ending = _ends_there(view, r, target)
            if ending is None or target.atom is None or _is_plain_access(view, atom, r):
                continue
            if _are_neighbours(selection, ending, target.atom):
                continue  # it is the same address, whichever is meant
            others = {t.atom for s, t in view.leads_of(atom) if s is not r and _ends_there(view, s, t) is None}
            if ending not in others:
                continue  # nothing here walks along the thing before it
            yield Refusal(
                "address-ambiguous",
                atom.name,
                atom.section.name,
                f"{atom.name} uses the address where {ending.name} ends and {target.atom.name} begins "
                f"({target.atom.section.name}), and may mean either",
                "keep the things apart: compile with -fdata-sections, or take them out of their shared section",
            )


def _are_neighbours(selection: Selection, first: Atom, second: Atom) -> bool:
    """Whether the running code has one thing where the other ends, as the new object has: a section of an object is
    never taken apart by a linker, and both are bound to their originals."""
    twins = selection.comparison.correlation.twins
    before, after = twins.get(first), twins.get(second)
    if before is None or after is None or first in selection.data or second in selection.data:
        return False
    return before.section.index == after.section.index and before.end == after.start


def out_of_reach(selection: Selection) -> Findings:
    """Branches to a neighbour in the same section that cannot be led to where it is, or to a long jump behind the
    function, which is what becomes of short ones."""
    view = selection.view
    for atom in selection.functions:
        for insn in view.instructions(atom):
            if insn.target is None or atom.entry <= insn.target <= atom.end:
                continue
            goal = view.goal(atom, insn)
            rows = view.relocations_at(atom, insn)
            if goal is None or goal is atom or (rows and not thunks.is_beyond(view, atom, rows[0])):
                continue
            yield Refusal(
                "unaccounted",
                atom.name,
                atom.section.name,
                f"{atom.name} leads into {goal.name}, which lies beside it in {atom.section.name}, by a branch that "
                "the assembler has resolved and that cannot be led elsewhere",
                f"declare {goal.name} without static, so that a relocation stays",
            )


def _ends_there(view: View, relocation: Relocation, target: Target) -> Atom | None:
    """The thing that ends where a target begins, if the relocation names neither."""
    if target.atom is None or target.atom.is_function or target.offset or target.section is None:
        return None
    if not view.obj.symbols[relocation.symbol].is_section:
        return None
    if naming.is_never_paired(target.atom.name, target.section.name):
        return None  # each of the compiler's own is one thing, which nothing walks along
    before = view.atom_before(target.atom)
    return before if before is not None and before.end == target.atom.start and not before.is_function else None


def _is_plain_access(view: View, atom: Atom, relocation: Relocation) -> bool:
    """Whether the instruction reads or writes just that place: then it means what begins there."""
    insn = view.instruction_at(atom, relocation.offset)
    if insn is None:
        return False
    code = atom.section.data[insn.offset : insn.end]
    return view.arch.memory_access(code) != "address" and not view.arch.is_indexed(code)


def gone_memory(selection: Selection) -> Findings:
    """Code and data that are freed once the kernel, or the module, is up: shipped code must not begin to use them."""
    comparison = selection.comparison
    for place, target in selection.all_references:
        atom = target.atom
        if atom is None or lifetime(atom.section.name) is not Lifetime.INIT:
            continue
        if selection.is_local(place, target) and not atom.section.name.startswith(_GONE_WITH_A_MODULES_START):
            continue  # it travels, and stays: `.meminit.text` is thrown away only with the kernel's own start
        owner = place if isinstance(place, Atom) else None
        if owner is not None and _used_before(selection, owner, atom):
            continue
        name = owner.name if owner is not None else comparison.new.obj.name
        yield Refusal(
            "init-reference",
            atom.name,
            atom.section.name,
            f"{name} uses {atom.name} ({atom.section.name}), whose memory is given back at the end of the start",
            "take the __init of what runs later away, in the new source",
        )


def _used_before(selection: Selection, owner: Atom, atom: Atom) -> bool:
    """Whether the old version used the same thing: it knows when it may (__ref)."""
    comparison = selection.comparison
    twins = comparison.correlation.twins
    old, thing = twins.get(owner), twins.get(atom)
    if old is None or thing is None:
        return False
    parts = (old, *comparison.old_children.get(old, ()))
    return any(target.atom is thing for part in parts for _, target in comparison.old.leads_of(part))


def left_init(selection: Selection) -> Findings:
    """Variables that were freed after the start and now stay: the running kernel has none, and its value is lost."""
    old = selection.comparison.old
    for atom in selection.data:
        if not atom.section.is_write or atom in selection.comparison.correlation.twins:
            continue
        before = old.by_name.get(atom.name)
        if before is not None and lifetime(before.section.name) is not Lifetime.LIVE:
            yield Refusal(
                "leaves-init",
                atom.name,
                atom.section.name,
                f"{atom.name} was in {before.section.name}, which the running kernel has freed: what was in it is lost",
                "accept it to start with a fresh variable of the initial value",
                fatal=False,
            )


def unwritten(selection: Selection) -> Findings:
    """New variables that shipped code only reads, and that only code which is not shipped would have set."""
    for atom, users, setters, handed_on in _set_elsewhere(selection):
        if not handed_on:
            yield Refusal(
                "never-set",
                atom.name,
                atom.section.name,
                f"{users} reads the new {atom.name}, which only {setters} sets, and that is left out",
                "set it in a callback (pre_patch), or where shipped code runs",
            )


def seldom_written(selection: Selection) -> Findings:
    """The same where shipped code hands the address on: what it is handed to may set the variable, or need it set."""
    for atom, users, setters, handed_on in _set_elsewhere(selection):
        if handed_on:
            yield Refusal(
                "never-set",
                atom.name,
                atom.section.name,
                f"{users} uses the new {atom.name}, which {setters} sets or initializes, and that is left out",
                "make sure that shipped code sets it first, or set it in a callback (pre_patch)",
            )


def _set_elsewhere(selection: Selection) -> Iterator[tuple[Atom, str, str, bool]]:
    """New variables that shipped code sets nowhere itself and other code does: names of both; whether shipped code
    takes the address."""
    view = selection.view
    twins = selection.comparison.correlation.twins
    for atom in selection.data:
        if atom in twins or not atom.section.is_write or naming.is_never_paired(atom.name, atom.section.name):
            continue
        shipped: dict[Atom, set[str]] = {}
        others: dict[Atom, set[str]] = {}
        for user in view.functions:
            found = {_access(view, user, r) for r, t in view.leads_of(user) if t.atom is atom}
            if found:
                (shipped if user in selection.functions else others)[user] = found
        does = {access for found in shipped.values() for access in found}
        handed_on = "address" in does
        setters = [
            user
            for user, found in others.items()
            if found != {"read"} and (not handed_on or found - {"read", "address"} or _initializes(view, user, atom))
        ]
        if setters and does <= {"read", "address"}:
            yield atom, _names(shipped), _names(setters), handed_on


def _names(atoms: Iterable[Atom]) -> str:
    return ", ".join(atom.name for atom in atoms)


def _initializes(view: View, user: Atom, atom: Atom) -> bool:
    """Whether code gives a variable's address to a function that makes something of it (`__mutex_init`)."""
    places = [view.instruction_at(user, r.offset) for r, target in view.leads_of(user) if target.atom is atom]
    calls = [call for insn in places if insn is not None for call, _ in given_to(view, user, insn)]
    return any(re.search("init|setup", call.callee) for call in calls)


def _access(view: View, atom: Atom, relocation: Relocation) -> str:
    insn = view.instruction_at(atom, relocation.offset)
    return view.arch.memory_access(atom.section.data[insn.offset : insn.end]) if insn is not None else "address"

"""Tables that only are read: their new versions travel with all that use them, and nobody goes on with the old one.

A table may be replaced where the running one is used in no other way than by reading it, or by handing it to a function
that only reads it while it runs. Where its address is stored, things that were made before keep the old one, and what
is made now keeps one that goes with the module: that is a matter of judgement (`rodata-changed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from builder.binary import Relocation
from builder.compare import Atom, View
from builder.compare.calls import given_to
from builder.compare.storage import Lifetime, is_readonly, lifetime

# Functions that read what an argument points to and keep no pointer to it: (name, number of the argument from 0).
# lib/nlattr.c, lib/parser.c, lib/string_helpers.c, lib/bsearch.c, lib/string.c (v6.1).
_READERS: Final = frozenset(
    {
        ("__nla_parse", 4),
        ("__nla_validate", 3),
        ("match_token", 1),
        ("match_string", 0),
        ("__sysfs_match_string", 0),
        ("bsearch", 1),
        ("memcmp", 0),
        ("memcmp", 1),
        ("bcmp", 0),
        ("bcmp", 1),
        ("memcpy", 1),
        ("__memcpy", 1),
        ("memchr", 0),
        ("strcmp", 0),
        ("strcmp", 1),
        ("strncmp", 0),
        ("strncmp", 1),
        ("strlen", 0),
    }
)
_AFTER_INIT: Final = ".data..ro_after_init"


def is_fixed(view: View, atom: Atom) -> bool:
    """Whether a datum has its initial value for good: read-only, or so after the start and never written before."""
    if is_readonly(atom.section):
        return True
    if not atom.section.name.startswith(_AFTER_INIT):
        return False
    return all(_access(view, user, r) == "read" for user, r in _references(view, atom) if user.is_function)


def is_only_read(view: View, atom: Atom) -> bool:
    """Whether nothing in an object does more with a table of its own than to read it."""
    if atom.is_global or not is_fixed(view, atom):
        return False
    users = list(_references(view, atom))
    return bool(users) and all(user.is_function and _only_reads(view, user, r) for user, r in users)


def _references(view: View, atom: Atom) -> Iterator[tuple[Atom, Relocation]]:
    """Who refers to a datum while the kernel runs, and by which relocation."""
    for user in view.atoms:
        if user is not atom and (user.is_function or lifetime(user.section.name) is Lifetime.LIVE):
            yield from ((user, r) for r, target in view.leads_of(user) if target.atom is atom)


def _only_reads(view: View, user: Atom, relocation: Relocation) -> bool:
    if _access(view, user, relocation) == "read":
        return True
    insn = view.instruction_at(user, relocation.offset)
    calls = given_to(view, user, insn) if insn is not None else ()
    return bool(calls) and all((call.callee, number) in _READERS and not call.is_local for call, number in calls)


def _access(view: View, user: Atom, relocation: Relocation) -> str:
    insn = view.instruction_at(user, relocation.offset)
    return view.arch.memory_access(user.section.data[insn.offset : insn.end]) if insn is not None else "address"

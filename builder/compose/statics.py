"""Variables of the old version that the new one has not: what was in them, and where it may have gone."""

from __future__ import annotations

from builder.compare import Atom, Comparison, naming
from builder.compose.identity import Findings
from builder.compose.selection import Selection
from builder.errors import Refusal


def lost(selection: Selection) -> Findings:
    """Static locals whose counterpart is unclear or gone."""
    comparison = selection.comparison
    unclear: set[Atom] = set()
    for atom, why in comparison.correlation.ambiguous:
        if atom in selection and atom.section.is_write:
            unclear.add(atom)
            yield Refusal(
                "static-ambiguous",
                atom.name,
                atom.section.name,
                f"{atom.name} has no plain original: {why}",
                "accept it to start with a fresh variable, or give the variables different names",
                fatal=False,
            )
    gone = [a for a in comparison.removed_data if naming.is_static_local(a.name) and a.section.is_write]
    if not gone:
        return
    for atom in selection.functions:
        old = comparison.correlation.twins.get(atom)
        if old is None:
            continue
        # One that may be the original of what is unclear is not gone.
        used = {t.atom for _, t in comparison.new.leads_of(atom)}
        told = {naming.family(other.name) for other in unclear if other in used}
        for _, target in comparison.old.leads_of(old):
            if target.atom in gone and target.atom is not None and naming.family(target.atom.name) not in told:
                yield Refusal(
                    "static-removed",
                    target.atom.name,
                    target.atom.section.name,
                    f"static {target.atom.name} of {old.name} has no counterpart in the new object"
                    + _inlining(comparison, old)
                    + _new_name(comparison, target.atom, atom),
                    "accept it if the variable was taken out on purpose, or give it its old name back",
                    fatal=False,
                )


def _inlining(comparison: Comparison, old: Atom) -> str:
    """Callees that exist on one side only: inlining moved code between functions."""
    twins, versions = comparison.correlation.twins, comparison.correlation.versions
    before = {
        t.atom.name
        for _, t in comparison.old.leads_of(old)
        if t.atom is not None and t.atom.is_function and t.atom not in versions
    }
    new = versions.get(old)
    after = (
        {
            t.atom.name
            for _, t in comparison.new.leads_of(new)
            if t.atom is not None and t.atom.is_function and t.atom not in twins
        }
        if new
        else set()
    )
    parts = []
    if before:
        parts.append(f"{', '.join(sorted(before))} was inlined or removed")
    if after:
        parts.append(f"{', '.join(sorted(after))} is no longer inlined")
    return f" ({'; '.join(parts)})" if parts else ""


def renamed(selection: Selection) -> Findings:
    """Variables of a file that are gone where new ones of their kind are used in their stead."""
    comparison = selection.comparison
    gone = [a for a in comparison.removed_data if a.section.is_write and not naming.is_static_local(a.name)]
    for old in gone:
        users = [
            comparison.correlation.versions[user]
            for user in comparison.old.functions
            if user in comparison.correlation.versions and any(t.atom is old for _, t in comparison.old.leads_of(user))
        ]
        names = {atom: name for user in users if user in selection for atom, name in _successors(comparison, old, user)}
        for atom, name in names.items():
            if atom in selection:
                yield Refusal(
                    "static-renamed",
                    name,
                    atom.section.name,
                    f"the new {name} is used where {old.name} was: it begins with its initial value, and what is in "
                    f"{old.name} stays there",
                    f"call it {old.name} as before if it is the same variable",
                    fatal=False,
                )


def _new_name(comparison: Comparison, old: Atom, user: Atom) -> str:
    names = [name for _, name in _successors(comparison, old, user)]
    if not names:
        return ""
    return f"; {' or '.join(names)} may be its new name, which begins with its initial value: what is in it now is lost"


def _successors(comparison: Comparison, old: Atom, user: Atom) -> list[tuple[Atom, str]]:
    """New variables of the same size that the new version of a user refers to."""
    found = {t.atom: None for _, t in comparison.new.leads_of(user)}
    return [
        (atom, atom.name)
        for atom in found
        if atom is not None and atom in comparison.new_data and atom.section.is_write and atom.size == old.size
    ]

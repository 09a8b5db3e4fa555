"""Why a change cannot ship: every rule is a row, all findings are reported together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

from builder.binary import elf, tables
from builder.compare import Atom, naming
from builder.compare.comparison import counts
from builder.compare.kept_structs import kept_struct_changes
from builder.compare.own_entries import entry_of
from builder.compare.storage import is_private, is_readonly
from builder.compose import identity, initial, registered, statics, threads, transient
from builder.compose.books import balance
from builder.compose.identity import Findings
from builder.compose.selection import RODATA_CHANGED, Role, Selection, changed_data, is_redirectable, is_transient
from builder.compose.traceable import file_has_fentry
from builder.errors import NOTHING, Allowed, Refusal


@dataclass(frozen=True)
class Judged:
    """`refusals` stop the build; `accepted` would have, but are `allowed`.

    `ignored` is what differs and cannot matter, by the rule that says so (builder/compose/books/rules.py).
    `noted` are those of the warnings that only the running kernel tells.
    """

    refusals: tuple[Refusal, ...]
    warnings: tuple[Refusal, ...]
    accepted: tuple[Refusal, ...]
    ignored: Mapping[str, tuple[str, ...]]
    allowed: Allowed = NOTHING
    noted: tuple[Refusal, ...] = ()


def judge(
    selection: Selection, allowed: Allowed = NOTHING, noted: tuple[Refusal, ...] = (), *, alone: bool = True
) -> Judged:
    """Apply every rule; a refusal of judgement that is `allowed` is accepted. `noted` are warnings of what only the
    running kernel tells. A pair that is not `alone` is one of several, of which another ships something."""
    books = balance(selection)
    ships = not (alone and selection.is_empty)
    over, became = list(transient.changed(selection, beside=ships)), list(transient.became(selection))
    beside = over if became or ships else []
    rules = (f for rule in _REFUSALS for f in rule(selection))
    found = list(dict.fromkeys((*beside, *became, *rules, *books.refusals)))
    accepted = [f for f in found if allowed.covers(f) or threads.is_forced(selection, f)]
    refused = [f for f in found if f not in accepted]
    # A warning stops nothing, whatever it is of.
    told = (() if beside else over, transient.left(selection, beside=ships), *(rule(selection) for rule in _WARNINGS))
    warnings = list(dict.fromkeys(replace(f, fatal=False) for rows in told for f in rows))
    warnings += noted
    return Judged(tuple(refused), tuple(warnings), tuple(accepted), books.ignored, allowed, noted)


def _unredirectable(selection: Selection) -> Findings:
    comparison = selection.comparison
    whole_file = not file_has_fentry(comparison.old)
    for atom, role in selection.functions.items():
        if role not in (Role.CHANGED, Role.CARRIER) or is_redirectable(comparison, atom) or atom in selection.exits:
            continue
        section = atom.section.name
        if section.startswith((".noinstr", ".entry", ".cpuidle")):
            yield Refusal(
                "noinstr",
                atom.name,
                section,
                f"{atom.name} must not be instrumented, so it cannot be redirected",
                "change its instrumentable callers instead",
            )
        elif any(n.startswith("__vdso_") for a in comparison.new.functions for n in a.names):
            yield Refusal(
                "vdso",
                atom.name,
                section,
                f"{atom.name} belongs to the vdso, which user space runs",
                "the vdso cannot be livepatched",
            )
        elif atom in selection.everywhere:
            continue  # its callers are known, wherever they are, and judged one by one
        elif whole_file:
            yield Refusal(
                "no-ftrace-file",
                atom.name,
                section,
                f"{atom.name} cannot be redirected: its whole file is built without ftrace locations",
                "change callers in other files",
            )
        elif atom.is_global:
            yield Refusal(
                "no-fentry",
                atom.name,
                section,
                f"{atom.name} has no ftrace location (notrace) and can be called from other files",
                "change its callers instead",
            )
        elif _is_address_taken(selection, atom):
            yield Refusal(
                "no-fentry",
                atom.name,
                section,
                f"{atom.name} has no ftrace location and its address is stored in data",
                "change the code that calls through that pointer instead",
            )
        elif callers := [c for c in selection.carriers.get(atom, ()) if c not in selection.functions]:
            if len(callers) == len(selection.carriers[atom]):
                yield Refusal(
                    "init-changed",
                    atom.name,
                    section,
                    f"{atom.name} changed, which cannot be redirected and which only code for start or end calls: "
                    f"{', '.join(caller.name for caller in callers)}",
                    "accept that the change has no effect on a kernel that runs",
                    fatal=False,
                )
        elif not selection.carriers.get(atom):
            yield Refusal(
                "no-fentry",
                atom.name,
                section,
                f"{atom.name} has no ftrace location and no caller in this file could carry it",
                "change its callers instead",
            )


def _is_address_taken(selection: Selection, atom: Atom) -> bool:
    view = selection.view
    return any(
        target.atom is atom
        for datum in view.data
        if not naming.is_never_paired(datum.name, datum.section.name) and _holds_live_pointers(datum)
        for _, target in view.leads_of(datum)
    )


def _holds_live_pointers(atom: Atom) -> bool:
    return not atom.section.name.startswith((".discard", "__ksymtab", "___ksymtab", "_kprobe_blacklist", ".kpatch"))


def _changed_data(selection: Selection) -> Findings:
    twins = selection.comparison.correlation.twins
    for atom, difference in changed_data(selection.comparison, selection.macros):
        if not is_readonly(atom.section) and atom.size > twins[atom].size:
            continue  # judged for its size
        if atom in selection.sets:
            continue
        section = atom.section.name
        users = _unshipped_users(selection, atom)
        if atom in selection and not users:
            continue  # the new version, with all that use it
        if is_readonly(atom.section):
            yield Refusal(
                RODATA_CHANGED,
                atom.name,
                section,
                f"read-only {atom.name} changed ({difference.reason})"
                + (f"; the old one stays in use by {', '.join(users[:4])}" if users else ""),
                "accept it to ship the new table with the functions that use it, or move the values into a function",
                fatal=False,
            )
        else:
            yield Refusal(
                "data-changed",
                atom.name,
                section,
                f"initial value of {atom.name} changed ({difference.reason}); the running kernel holds the old one",
                _how_to_set(selection, atom),
                fatal=False,
            )


def _how_to_set(selection: Selection, atom: Atom) -> str:
    reason = initial.why_not(selection, atom)
    if not reason:
        return f"put the new value into the running kernel with --set {atom.name}, or accept that the running one stays"
    return (
        f"--set {atom.name} cannot put it there ({reason}): let code read the new value from a variable of its own, or "
        "accept that the running one stays"
    )


def _grown(selection: Selection) -> Findings:
    """Variables that are larger than the running ones: new code would write over what lies behind."""
    for atom, old in selection.comparison.correlation.twins.items():
        if atom.is_function or not atom.section.is_write or atom.size <= old.size or atom in selection:
            continue
        if not selection.macros.ignores(atom) and counts(atom):
            yield Refusal(
                "data-grown",
                atom.name,
                atom.section.name,
                f"{atom.name} has {atom.size} bytes and the running one {old.size}: what is new of it lies over others",
                "keep the old variable and put what is new into one of its own",
            )


def _unshipped_users(selection: Selection, atom: Atom) -> list[str]:
    """Who refers to a datum and does not travel; other files for a global one."""
    view = selection.view
    users = []
    for other in view.atoms:
        if other is atom or other in selection or not _holds_live_pointers(other) or is_transient(other):
            continue
        if any(t.atom is atom for _, t in view.leads_of(other)):
            users.append(other.name)
    if atom.is_global:
        users.append("other files")
    return users


def _labels(selection: Selection) -> Findings:
    """Addresses inside a function that someone else keeps."""
    view = selection.view
    for atom in view.data:
        if not _holds_live_pointers(atom) or atom.section.name.startswith(".init"):
            continue
        owners = [o for o in view.label_owners(atom) if o in selection.functions]
        if not owners:
            continue
        outside = [u for u in _unshipped_users(selection, atom) if u != "other files"] if atom in selection else []
        if is_readonly(atom.section) and not atom.is_global and atom in selection and not outside:
            continue
        yield Refusal(
            "label-escape",
            atom.name,
            atom.section.name,
            f"{atom.name} keeps addresses of labels inside {owners[0].name} and is used outside of it",
            "label tables must be read-only and used by their own function only",
        )


def _comdat(selection: Selection) -> Findings:
    for atom in (*selection.functions, *selection.data):
        if atom.section.flags & elf.SHF_GROUP:
            yield Refusal(
                "comdat",
                atom.name,
                atom.section.name,
                f"{atom.name} lies in a COMDAT group: others have copies",
                "give it a definition of its own",
            )


def _unnamed_data(selection: Selection) -> Findings:
    for place, target in selection.all_references:
        if target.kind != "section" or target.section is None:
            continue
        own = entry_of(selection.view, target)
        if own is not None and own.owner in selection.functions:
            continue
        if (target.section.is_write or target.section.is_nobits) and not is_private(target.section):
            name = place.name if isinstance(place, Atom) else selection.comparison.new.obj.name
            yield Refusal(
                "unnamed-data",
                name,
                target.section.name,
                f"{name} uses bytes at {target.section.name}+{target.offset:#x} that no symbol covers",
                "compile with -fdata-sections and without -fsection-anchors",
            )


def _unknown_tables(selection: Selection) -> Findings:
    """A section without symbols that points at what travels and for which there is no rule.

    Of what only the image can have, the image's own entries lead to what is redirected; another content is told by the
    books.
    """
    view = selection.view
    known = (*tables.BY_NAME, *tables.ANNEXES, ".orc_", ".rodata", ".data.rel.ro", ".text")
    for section in view.obj.sections:
        if not section.is_alloc or section.is_string or tables.is_discarded(section.name):
            continue
        if section.name.startswith(known):
            continue
        if view.atoms_in(section.index) or tables.without_effect(section.name) is not None:
            continue
        for r in view.obj.relocations_of(section.index):
            atom = view.target(r).atom
            if atom is not None and atom in selection.functions:
                yield Refusal(
                    "unknown-table",
                    atom.name,
                    section.name,
                    f"section {section.name} refers to {atom.name} and its entries are not understood",
                    "add a row for it in builder/binary/tables.py",
                )
                break


def _removed_exports(selection: Selection) -> Findings:
    """Exports that are gone or are otherwise, of a thing that changed too or with nothing that ships."""
    return (row for row, kept in _changed_exports(selection) if not kept)


def _kept_exports(selection: Selection) -> Findings:
    """The same of things that stay what they are, beside what ships: modules go on using them as before."""
    return (row for row, kept in _changed_exports(selection) if kept)


def _changed_exports(selection: Selection) -> Iterator[tuple[Refusal, bool]]:
    old, new = selection.comparison.exports
    for name, export in old.items():
        if name not in new or new[name] != export:
            now = "now not at all"
            if name in new:
                licence = new[name].licence
                now = f"now to {licence}" if licence != export.licence else "now otherwise"
            thing = selection.view.by_name.get(name)
            kept = thing is not None and thing not in selection and not selection.is_empty
            row = Refusal(
                "export-changed",
                name,
                f"___ksymtab+{name}",
                f"{name} was exported ({export.licence}), {now}" + (": it stays as it is" if kept else ""),
                "nothing to do: a livepatch cannot change an export, and what is exported is what it was"
                if kept
                else "a livepatch cannot change an export; accept that it stays as it is",
                fatal=False,
            )
            yield row, kept


def _added_exports(selection: Selection) -> Findings:
    old, new = selection.comparison.exports
    for name in new:
        if name not in old:
            yield Refusal(
                "export-added",
                name,
                f"___ksymtab+{name}",
                f"the new export of {name} is left out",
                "nothing to do unless another module of yours needs it",
            )


def _layouts(selection: Selection) -> Findings:
    """Structures whose layout changed while objects of the old layout live (DWARF tells)."""
    if selection.is_empty:
        return
    comparison = selection.comparison
    inside = frozenset(atom.name.partition(".")[0] for atom in comparison.new.functions)
    for change in kept_struct_changes(comparison, inside):
        size = f"{change.old_size} -> {change.new_size} bytes"
        fields = ", ".join(map(str, change.fields[:_FIELDS])) + (" and more" if len(change.fields) > _FIELDS else "")
        added = [field.name for field in change.fields if field.kind == "added"]
        advice = "make sure that no old object is reached"
        if added:
            advice = f"keep {', '.join(added[:_FIELDS])} in shadow variables (docs/data.md shows the code), or {advice}"
        yield Refusal(
            "struct-layout",
            change.name,
            "",
            f"the layout of {change.name} changed ({size}: {fields}), but objects made before keep the old one",
            advice,
        )


_FIELDS = 6


def _not_compared(selection: Selection) -> Findings:
    """What only debug information tells; a source patch proves line numbers too."""
    comparison = selection.comparison
    sides = comparison.old.obj, comparison.new.obj
    lines = bool(comparison.shifts) or all(".debug_line" in obj.by_name for obj in sides)
    layouts = all(".debug_info" in obj.by_name for obj in sides)
    if selection.is_empty or (lines and layouts):
        return
    missing = [what for what, known in (("line numbers", lines), ("structure layouts", layouts)) if not known]
    yield Refusal(
        "not-compared",
        PurePath(sides[1].name).name,
        "",
        f"{' and '.join(missing)} were not compared: there is no debug information"
        + ("" if lines else "; a function may be called changed of which only lines moved"),
        "compile both objects with -g" + ("" if lines else ", or give the source's patch with --source-diff"),
        fatal=False,
    )


def _scheduler(selection: Selection) -> Findings:
    for atom, role in selection.functions.items():
        if role in (Role.CHANGED, Role.CARRIER) and atom.section.name.startswith(".sched.text"):
            yield Refusal(
                "sched-text",
                atom.name,
                atom.section.name,
                f"the new {atom.name} lies outside of __sched_text: a task asleep in it shows it as wait channel",
                "nothing to do unless something reads /proc/PID/wchan",
            )


_REFUSALS: tuple[Callable[[Selection], Findings], ...] = (
    _unredirectable, _changed_data, _grown, statics.lost, _labels, _comdat, _unnamed_data, _unknown_tables,
    _removed_exports, identity.storage, identity.aliases, identity.borders, identity.out_of_reach,
    identity.gone_memory, identity.left_init, identity.unwritten, threads.never_left, registered.refused,
)  # fmt: skip
_WARNINGS: tuple[Callable[[Selection], Findings], ...] = (
    _layouts, _not_compared, _added_exports, _kept_exports, _scheduler, registered.left_out, identity.seldom_written,
    statics.renamed, threads.forced,
)  # fmt: skip

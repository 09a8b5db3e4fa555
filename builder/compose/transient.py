"""Changes of code that runs at start or end only: nothing of them ships, and what ships may miss what they would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from builder.compare import Atom, Comparison, View, naming
from builder.compose import exits
from builder.compose.identity import Findings
from builder.compose.selection import Role, Selection, is_transient
from builder.errors import Refusal

_NAMED = 4

#: A flag of a cache, say, decides how all who look at its objects must do so, and no name tells who these are.
_BY_NAME = "nothing that ships uses that by name, but it may look at what the start has made"


def changed(selection: Selection, *, beside: bool) -> Findings:
    """A changed __init or __exit function, `beside` something that ships or not.

    Where nothing else ships this is why nothing does; beside shipped code it is a refusal that says what that misses.
    """
    built_in = exits.is_built_in(selection.view) and beside
    for atom in selection.comparison.changed:
        if not is_transient(atom) or selection.macros.ignores(atom) or atom in selection.exits:
            continue
        ends = exits.is_exit(atom)
        if ends and built_in:
            continue  # never to run, so that what ships misses nothing
        yield Refusal(
            "exit-changed" if ends else "init-changed",
            atom.name,
            atom.section.name,
            f"{atom.name} changed, which runs only {'when the module is unloaded' if ends else 'at start'}"
            + (f"; {_missed(selection, atom)}" if not selection.is_empty else _nothing(ends)),
            "if the change matters to a running kernel, do its work in a callback (pre_patch); "
            "else accept that it is left out",
            fatal=False,
        )
    before = {target.name for target in _called_at_start(selection.comparison.old)}
    for target in _called_at_start(selection.comparison.new):
        if target.name not in before and not selection.macros.ignores(target):
            yield Refusal(
                "init-changed",
                target.name,
                target.section.name,
                f"{target.name} is to be called at start (an initcall), which is over: nothing would call it",
                "do its work in a callback (pre_patch), or accept that it is left out",
                fatal=False,
            )


def left(selection: Selection, *, beside: bool) -> Findings:
    """What comes of changed exit code beside what ships, where that need not be refused."""
    comparison = selection.comparison
    for atom in comparison.changed:
        if not exits.is_exit(atom) or selection.macros.ignores(atom) or not beside:
            continue
        if atom in selection.exits:
            yield Refusal(
                "exit-changed",
                atom.name,
                atom.section.name,
                f"{atom.name} changed, which runs when the module is unloaded: while the livepatch is enabled the "
                f"module's exit leads to the new {selection.exits[0].name}",
                "nothing to do",
                fatal=False,
            )
        elif exits.is_built_in(selection.view):
            yield Refusal(
                "exit-changed",
                atom.name,
                atom.section.name,
                f"{atom.name} changed, which is for a module that is unloaded, and this is built into the kernel: it "
                "never runs, and is left out",
                "nothing to do",
                fatal=False,
            )


def _called_at_start(view: View) -> Iterator[Atom]:
    """The functions that initcalls name (include/linux/init.h, `.initcall*.init`)."""
    for section in view.obj.sections:
        if section.name.startswith(".initcall"):
            for r in view.obj.relocations_of(section.index):
                if (atom := view.target(r).atom) is not None and atom.is_function:
                    yield atom


def became(selection: Selection) -> Findings:
    """A changed function that was live and is code for start or end now."""
    gone = {atom.name: atom for atom in selection.comparison.removed_functions if not is_transient(atom)}
    for atom in selection.comparison.new_functions:
        old = gone.get(atom.name)
        if old is None or not is_transient(atom) or selection.macros.ignores(atom):
            continue
        if not _same_code(selection.comparison, old, atom):
            yield Refusal(
                "init-changed",
                atom.name,
                atom.section.name,
                f"{atom.name} changed, and became code for start or end ({old.section.name} -> {atom.section.name}): "
                "who still runs it runs the old one",
                "leave it where it was, or accept that the change has no effect on a kernel that runs",
                fatal=False,
            )


def _nothing(ends: bool) -> str:
    if ends:
        return ": nothing of it ships, and unloading runs the old one"
    return ": nothing of it ships; what has started has run the old one, and a module that is loaded later runs it too"


def _missed(selection: Selection, atom: Atom) -> str:
    """What the new version does and the old one did not, by what it refers to, and who of what ships uses that too."""
    comparison = selection.comparison
    before = _uses(comparison.old, comparison.correlation.twins[atom])
    after = _uses(comparison.new, atom)
    new, gone = list(after - before), list(before - after)
    said = [f"it now uses {_listed(new)}"] if new else []
    said += [f"no longer uses {_listed(gone)}"] if gone else []
    if not said:
        said = ["it does otherwise what it did"]
    shared = []
    for other, role in selection.functions.items():
        if role is not Role.CHILD:
            both = sorted(set(_uses(comparison.new, other)) & {*new, *gone})
            shared += [f"{other.name} ({_listed(both)})"] if both else []
    what = "nothing that ships uses that" if exits.is_exit(atom) else _BY_NAME
    if shared:
        what = f"what ships and uses that too: {_listed(shared)}"
    return f"{' and '.join(said)}; {what}"


def _uses(view: View, atom: Atom) -> Counter[str]:
    """How often a function refers to each function and variable; strings and what the compiler made left out."""
    said_by_all = {view.arch.fentry, atom.name, *(name for _, name in view.arch.glue.imports)}
    return Counter(
        naming.family(target.name)
        for _, target in view.leads_of(atom)
        if target.name
        and target.name not in said_by_all
        and target.kind in ("atom", "symbol")
        and not (target.section is not None and naming.is_never_paired(target.name, target.section.name))
        and not naming.is_label(target.name)
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _same_code(comparison: Comparison, old: Atom, new: Atom) -> bool:
    """Whether two functions that are no twins say the same."""
    sides = ((comparison.old, old), (comparison.new, new))
    first, second = (
        (v.code(a), [comparison.meanings.of(v, a, r, lines=True) for r in v.relocations(a)]) for v, a in sides
    )
    return first == second

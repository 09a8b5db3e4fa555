"""What the author of a patch says in the new object: callbacks, and what to leave alone.

Both spellings of the field: kpatch's (`kmod/patch/kpatch-macros.h`: sections
`.kpatch.ignore.*`, `.kpatch.callbacks.*`, `.kpatch.force`) and the kernel's
(`include/linux/livepatch_external.h`, v6.19: variables
`__klp_pre_patch_callback_OBJECT` and so on). One kind is this project's own:
what `.kpatch.callbacks.module_exit` names runs when the module is taken out.
Livepatch calls none of the other kinds when a module is replaced by a later one
(Documentation/livepatch/cumulative-patches.rst), and what was registered in a
pre_patch callback has to be taken back before the module's memory goes. Another are the livepatch's states
(Documentation/livepatch/system-state.rst): each `struct klp_state` of the section `.bespoke.states`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from builder.binary import Relocation, tables
from builder.compare import Atom, View

MODULE_EXIT: Final = "module_exit"
CALLBACKS: Final = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch", MODULE_EXIT)


@dataclass(frozen=True)
class Macros:
    """`callbacks` maps a name of CALLBACKS to its function; `forced` are names of functions whose old and new version
    may run at once, `states` the structures by which later livepatches know of this one, the others names to ignore."""

    callbacks: Mapping[str, Atom] = field(default_factory=dict)
    ignored_functions: frozenset[str] = frozenset()
    ignored_sections: frozenset[str] = frozenset()
    forced: frozenset[str] = frozenset()
    states: tuple[Atom, ...] = ()

    def ignores(self, atom: Atom) -> bool:
        """Whether the author wants a change of this atom left out."""
        return bool(self.ignored_functions.intersection(atom.names)) or atom.section.name in self.ignored_sections


def read_macros(view: View) -> Macros:
    """The author's macros in an object; none is the normal case."""
    functions: set[str] = set()
    forced: set[str] = set()
    sections: set[str] = set()
    callbacks: dict[str, Atom] = {}
    for section in view.obj.sections:
        if (named := {".kpatch.ignore.functions": functions, ".kpatch.force": forced}.get(section.name)) is not None:
            for r in view.obj.relocations_of(section.index):
                named.add(view.target(r).name)
        elif section.name == ".kpatch.ignore.sections":
            for r in view.obj.relocations_of(section.index):
                name = _string(view, r)
                if name is not None:
                    sections.add(name)
        elif section.name.startswith(".kpatch.callbacks."):
            kind = section.name.removeprefix(".kpatch.callbacks.")
            for r in view.obj.relocations_of(section.index)[:1]:
                function = view.target(r).atom
                if kind in CALLBACKS and function is not None:
                    callbacks[kind] = function
    for atom in view.data:
        for kind in CALLBACKS:
            if atom.name.startswith(f"__klp_{kind}_callback_"):
                for r in view.relocations(atom):
                    function = view.target(r).atom
                    if function is not None:
                        callbacks[kind] = function
    states = tuple(atom for atom in view.data if atom.section.name == tables.STATES)
    return Macros(callbacks, frozenset(functions), frozenset(sections), frozenset(forced), states)


def _string(view: View, relocation: Relocation) -> str | None:
    target = view.target(relocation)
    if target.section is None:
        return None
    return str(target.section.string_at(target.place))


def is_author_data(atom: Atom) -> bool:
    """Data that only speaks to this tool and never travels."""
    return atom.section.name.startswith(".kpatch.") or (atom.name.startswith("__klp_") and "_callback_" in atom.name)

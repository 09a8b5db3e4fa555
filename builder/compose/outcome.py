"""The outcome of a diff: everything that the stages said of one pair of objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from builder.compare import Atom, Comparison, View
from builder.compose.refusals import Judged
from builder.compose.selection import Role, Selection
from builder.errors import NO_FUNCTIONS, Refusal, RefusedError

EXIT_STATUS: Final = {"error": 2, "refused": 1, "changed": 0, "unchanged": 3}
"""What a command that compares ends with, by its verdict."""


@dataclass(frozen=True)
class Diff:
    """One compared pair; `verdict` is `changed`, `unchanged` or `refused`."""

    old: str
    new: str
    comparison: Comparison
    selection: Selection
    judged: Judged

    @property
    def verdict(self) -> str:
        if self.judged.refusals:
            return "refused"
        return "unchanged" if self.selection.is_empty else "changed"

    @property
    def warnings(self) -> tuple[Refusal, ...]:
        return self.judged.warnings

    def forget(self) -> None:
        """Free what was found in both objects, at once (see `View.forget`); nothing may be asked afterwards."""
        self.comparison.old.forget()
        self.comparison.new.forget()

    def _names(self, view: View, atoms: Iterable[Atom]) -> list[str]:
        """Function names with their aliases (`tipc_exit` is `cleanup_module` too), ignored ones left out."""
        macros = self.selection.macros
        return sorted(
            symbol.name
            for atom in atoms
            if not macros.ignores(atom)
            for symbol in view.obj.symbols_in[atom.section.index]
            if symbol.name == atom.name or (symbol.value == atom.entry and symbol.is_function)
        )

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """Names of functions whose own code changed."""
        return tuple(self._names(self.comparison.new, self.comparison.changed))

    @cached_property
    def functions(self) -> dict[str, list[str]]:
        """Names of functions by what became of them, as the document has them."""
        comparison = self.comparison
        return {
            "changed": list(self.changed),
            "new": self._names(comparison.new, comparison.new_functions),
            "removed": self._names(comparison.old, comparison.removed_functions),
            "line_only": self._names(comparison.new, comparison.line_only),
        }

    def entry_counts(self) -> dict[str, dict[str, int]]:
        """Special table -> function -> kept entries."""
        out: dict[str, Counter[str]] = {}
        for atom, entries in self.selection.entries.items():
            for entry in entries:
                out.setdefault(entry.table.name, Counter())[atom.name] += 1
        return {table: dict(sorted(row.items())) for table, row in sorted(out.items())}

    def originals(self) -> list[list[str]]:
        """What stays an original of this object: [old name, kind, local or global], sorted."""
        twins = self.comparison.correlation.twins
        found = set()
        for _, target in self.selection.all_references:
            atom = target.atom
            if atom is None or atom in self.selection or atom not in twins:
                continue
            old = twins[atom]
            kind = "function" if old.is_function else "object"
            found.add((old.name, kind, "global" if old.is_global else "local"))
        return [list(row) for row in sorted(found)]

    def _table_users(self) -> dict[str, list[str]]:
        """Changed table that travels -> unchanged functions that use it, and travel for it."""
        selection, data = self.selection, self.comparison.data
        tables = [a for a in selection.data if a in data and data[a].is_changed]
        carriers = [a for a, role in selection.functions.items() if role is Role.CARRIER] if tables else []
        used = {atom: {target.atom for _, target in selection.view.leads_of(atom)} for atom in carriers}
        found = {table.name: [atom.name for atom in carriers if table in used[atom]] for table in tables}
        return {table: users for table, users in found.items() if users}

    def _carriers(self) -> dict[str, list[str]]:
        """Function that cannot be redirected, or changed table -> unchanged functions of this object that carry it."""
        selection = self.selection
        carriers = {atom for atom, role in selection.functions.items() if role is Role.CARRIER}
        out = {atom.name: {c.name for c in row if c in carriers} for atom, row in selection.carriers.items()}
        for table, users in self._table_users().items():
            out.setdefault(table, set()).update(users)
        for caller, names in selection.forced.items():
            for name in names:
                out.setdefault(name, set()).add(caller.name)
        return {name: sorted(row) for name, row in sorted(out.items())}

    def as_json(self) -> dict[str, Any]:
        """The document of the command-line contract for one pair, and what else is known."""
        comparison, selection = self.comparison, self.selection
        ignores = selection.macros.ignores
        reasons = {
            a.name: d.reason for a, d in comparison.functions.items() if d.is_changed and d.reason and not ignores(a)
        }
        reasons |= {a.name: "in the new object only" for a in comparison.new_functions}
        for atom, callers in selection.carriers.items():
            for caller in callers:
                reasons.setdefault(caller.name, f"unchanged, carries {atom.name}, which cannot be redirected")
        for table, users in self._table_users().items():
            for user in users:
                reasons.setdefault(user, f"unchanged, uses {table}, which changed and travels")
        for caller, names in selection.forced.items():
            what = f"{', '.join(names)}, which cannot be redirected"
            reasons.setdefault(caller.name, f"unchanged, carries {what}")
        return {
            "verdict": self.verdict,
            "old": self.old,
            "new": self.new,
            "functions": self.functions,
            "data": {
                "new": sorted(a.name for a in selection.data if a in comparison.new_data),
                "changed": sorted(a.name for a, d in comparison.data.items() if d.is_changed),
            },
            "children": {
                parent.name: sorted(a.name for a in parts)
                for parent, parts in sorted(comparison.children.items(), key=lambda row: row[0].name)
                if parent in selection.functions
            },
            "carriers": self._carriers(),
            "reasons": dict(sorted(reasons.items())),
            "special_entries": self.entry_counts(),
            "originals": self.originals(),
            "refusals": [r.as_json() for r in self.judged.refusals],
            "warnings": [w.as_json() for w in self.judged.warnings],
            "accepted": [r.as_json() for r in self.judged.accepted],
            "ignored": {rule: list(what) for rule, what in self.judged.ignored.items()},
        }


def unchanged(old: str, new: str) -> dict[str, Any]:
    """The document of a pair of which nothing can have changed, as `Diff.as_json` makes it."""
    nothing: list[str] = []
    return {
        "verdict": "unchanged",
        "old": old,
        "new": new,
        "functions": {kind: nothing for kind in NO_FUNCTIONS},
        "data": {"new": nothing, "changed": nothing},
        "children": {},
        "carriers": {},
        "reasons": {},
        "special_entries": {},
        "originals": nothing,
        "refusals": nothing,
        "warnings": nothing,
        "accepted": nothing,
        "ignored": {},
    }


class ChangeRefusedError(RefusedError):
    """Compared pairs that cannot ship together, with what was found of each."""

    def __init__(self, refusals: Sequence[Refusal], diffs: Sequence[Diff], *, noted: Sequence[Refusal] = ()) -> None:
        """`noted` are warnings from before the pairs were compared."""
        functions = {kind: sorted({name for d in diffs for name in d.functions[kind]}) for kind in NO_FUNCTIONS}
        warnings = dict.fromkeys([*noted, *(w for d in diffs for w in d.judged.warnings)])
        super().__init__(list(dict.fromkeys(refusals)), functions=functions, warnings=list(warnings))
        self.diffs = tuple(diffs)

"""What running code was found to be before: the functions of one old object, held against one kernel or module.

To hold a function against what runs both are decoded. The running code of a kernel is the same each time, and so are
the old objects of a cumulative module, but of its last fix. Kept by the content of both, and the text of the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from builder.acquire import sums
from builder.acquire.cache import path_of
from builder.compare import Atom, View
from builder.compare.contents import content_of, program
from builder.compose.running import Running
from builder.compose.runpre import Match, Matcher, Mismatch


class KeptMatcher(Matcher):
    """A matcher that finds what was found before; `keep` adds what was not."""

    def __init__(self, view: View, running: Running) -> None:
        super().__init__(view, running)
        self._file = path_of("maps/matches", program("compose"), content_of(view), running.name, running.identity)
        known = sums.read_json(self._file)
        self._known: dict[str, Any] = known if isinstance(known, dict) else {}
        self._more: dict[str, Any] = {}
        self._numbers = {atom: number for number, atom in enumerate(view.atoms)}

    def all_of(self, atom: Atom) -> tuple[list[Match], list[Mismatch]]:
        name = str(self._numbers[atom])
        if (rows := self._known.get(name)) is not None:
            try:
                matches, reasons = rows
                return [self._read(atom, *row) for row in matches], [Mismatch(*row) for row in reasons]
            except (IndexError, TypeError, ValueError, AttributeError):
                sums.note_damage(self._file)
        found = super().all_of(atom)
        self._more[name] = [[self._written(match) for match in found[0]], [[row.reason] for row in found[1]]]
        return found

    def keep(self) -> None:
        """Keep what was not known; what cannot be written is found anew."""
        if self._more:
            sums.keep_json(self._file, self._known | self._more)

    def _written(self, match: Match) -> Sequence[Any]:
        solved, externs = (
            [[self._numbers[atom], value] for atom, value in rows.items()] for rows in (match.solved, match.externs)
        )
        return match.place, match.sympos, match.name, solved, dict(match.names), externs

    def _read(
        self,
        atom: Atom,
        place: int,
        sympos: int,
        name: str,
        solved: Sequence[tuple[int, int]],
        names: Mapping[str, int],
        externs: Sequence[tuple[int, str]],
    ) -> Match:
        atoms = self.view.atoms
        return Match(
            atom,
            place,
            sympos,
            name,
            {atoms[number]: there for number, there in solved},
            dict(names),
            {atoms[number]: symbol for number, symbol in externs},
        )

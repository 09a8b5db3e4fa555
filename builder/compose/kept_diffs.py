"""Diffs that were made before: of the pairs of a cumulative module all but one are what they were the last time.

A diff is kept as a document that tells atoms by their numbers in the object (`View.atoms`): it says nothing without
both objects, of whose bytes only what somebody looks at is read again. It stands by all that it is made of: the bytes
of both objects, what was allowed, and the text of this program. The source patch, which the next fix makes longer, is
not among them: what it was asked while the pair was compared is kept with the answers, and they have to be the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from builder.acquire import sums
from builder.acquire.bounds import read_input
from builder.acquire.cache import cache_path
from builder.acquire.shifts import Shift
from builder.binary import ObjectFile, Relocation, read_object, tables
from builder.binary.pair import fit_pair
from builder.compare import Atom, Comparison, Difference, Verdict, View
from builder.compare.contents import program, tell
from builder.compare.correlate import Correlation
from builder.compare.lines import AskedLine, LineProof
from builder.compare.meaning import Meanings
from builder.compare.verdict import SAME
from builder.compose.macros import read_macros
from builder.compose.outcome import Diff
from builder.compose.references import Piece
from builder.compose.refusals import Judged
from builder.compose.selection import Role, Selection
from builder.errors import Allowed, Refusal

Make = Callable[[ObjectFile, ObjectFile], Diff]


def kept_diff(old: Path, new: Path, shifts: Sequence[Shift], allowed: Allowed, make: Make) -> Diff:
    """What `make` finds of a pair under these shifts, with this allowed; from the cache where it was found before.

    Raises as `read_pair` and `make`.
    """
    contents = read_input(old), read_input(new)
    pair = fit_pair(read_object(contents[0], name=str(old)), read_object(contents[1], name=str(new)))
    told = [hashlib.sha256(content).hexdigest() for content in contents]
    names = [path.name for path in (old, new)]  # warnings are told of them
    what = repr((program("compose"), names, told, bool(shifts), sorted(allowed.rows), sorted(allowed.sets)))
    key = hashlib.sha256(what.encode()).hexdigest()
    file = cache_path("maps/diffs", key[:32])
    if (found := _known(file, key, pair, shifts, allowed)) is None:
        found = make(*pair)
        if not _names_a_file(found):
            sums.keep_json(file, {"of": key, **written(found)})
    tell(found.comparison.old, told[0])
    tell(found.comparison.new, told[1])
    return found


def _known(
    file: Path, key: str, pair: tuple[ObjectFile, ObjectFile], shifts: Sequence[Shift], allowed: Allowed
) -> Diff | None:
    """The diff that is kept in a file; None where there is none, or that of something else."""
    if (known := sums.read_json(file)) is None:
        return None
    try:
        if known["of"] == key:
            return _read(known, *pair, shifts, allowed)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        pass
    sums.note_damage(file)
    return None


def _names_a_file(diff: Diff) -> bool:
    """Whether what is said of a pair names one of its files by its path, which may be another the next time."""
    said = (text for row in _said(diff.judged) for text in (row.symbol, row.section, row.message, row.advice))
    texts = (*said, *(text for rows in diff.judged.ignored.values() for text in rows))
    return any(name in text for text in texts for name in (diff.old, diff.new))


def _said(judged: Judged) -> tuple[Refusal, ...]:
    return (*judged.refusals, *judged.warnings, *judged.accepted)


# A document, and the diff that it is of. What holds atoms is written as their numbers, of the new object unless the
# name says otherwise.


def written(diff: Diff) -> dict[str, Any]:
    """The document of a diff: equal for equal ones."""
    comparison, selection, judged = diff.comparison, diff.selection, diff.judged
    olds = {atom: number for number, atom in enumerate(comparison.old.atoms)}
    news = {atom: number for number, atom in enumerate(comparison.new.atoms)}

    def numbers(atoms: Iterable[Atom]) -> list[int]:
        return [news[atom] for atom in atoms]

    correlation = comparison.correlation
    return {
        "atoms": [len(olds), len(news)],
        "shifts": bool(comparison.shifts),
        "asked": [[*line, answer] for line, answer in comparison.asked.items()],
        "twins": [[news[new], olds[old]] for new, old in correlation.twins.items()],
        "ambiguous": [[news[atom], reason] for atom, reason in correlation.ambiguous],
        "functions": _verdicts(comparison.functions, news),
        "data": _verdicts(comparison.data, news),
        "new_functions": numbers(comparison.new_functions),
        "removed_functions": [olds[atom] for atom in comparison.removed_functions],
        "new_data": numbers(comparison.new_data),
        "removed_data": [olds[atom] for atom in comparison.removed_data],
        "selected": [[news[atom], role.value] for atom, role in selection.functions.items()],
        "travelling": numbers(selection.data),
        "pieces": [[piece.section.index, piece.start, piece.end] for piece in selection.pieces],
        "entries": [[news[atom], list(map(_entry, rows))] for atom, rows in selection.entries.items()],
        "redirected": numbers(selection.redirected),
        "carriers": [[news[atom], numbers(rows)] for atom, rows in selection.carriers.items()],
        "left_out": sorted(numbers(selection.left_out)),
        "forced": [[news[atom], list(names)] for atom, names in selection.forced.items()],
        "everywhere": sorted(numbers(selection.everywhere)),
        "sets": numbers(selection.sets),
        "exits": numbers(selection.exits),
        "refusals": list(map(astuple, judged.refusals)),
        "warnings": list(map(astuple, judged.warnings)),
        "accepted": list(map(astuple, judged.accepted)),
        "noted": list(map(astuple, judged.noted)),
        "ignored": {rule: list(what) for rule, what in judged.ignored.items()},
    }


def _verdicts(found: Mapping[Atom, Difference], news: Mapping[Atom, int]) -> list[Any]:
    """The numbers of what has not changed at all, and [number, verdict, reason, excused] of the rest, in order."""
    return [
        news[atom] if row == SAME else [news[atom], row.verdict.value, *astuple(row)[1:]] for atom, row in found.items()
    ]


def _entry(entry: tables.Entry) -> list[Any]:
    return [entry.table.name, *entry[1:]]


def _read(
    known: Mapping[str, Any], old: ObjectFile, new: ObjectFile, shifts: Sequence[Shift], allowed: Allowed
) -> Diff | None:
    """The diff; None where the source patch now answers otherwise. Raises where it is none of these objects."""
    before, after = View(old), View(new)
    olds, news = before.atoms, after.atoms
    if known["atoms"] != [len(olds), len(news)]:
        raise ValueError("it is of other objects")
    proof = LineProof(before, after, shifts)
    if any(proof.moves(AskedLine(*line)) is not answer for *line, answer in known["asked"]):
        return None

    def atoms(numbers: Iterable[int]) -> tuple[Atom, ...]:
        return tuple(news[number] for number in numbers)

    def verdicts(rows: Iterable[Any]) -> dict[Atom, Difference]:
        return dict((news[row], SAME) if isinstance(row, int) else _difference(news, *row) for row in rows)

    twins = {news[a]: olds[b] for a, b in known["twins"]}
    correlation = Correlation(
        before,
        after,
        twins,
        {old: new for new, old in twins.items()},
        tuple((news[number], reason) for number, reason in known["ambiguous"]),
    )
    comparison = Comparison(
        correlation=correlation,
        meanings=Meanings(correlation),
        functions=verdicts(known["functions"]),
        data=verdicts(known["data"]),
        new_functions=atoms(known["new_functions"]),
        removed_functions=tuple(olds[number] for number in known["removed_functions"]),
        new_data=atoms(known["new_data"]),
        removed_data=tuple(olds[number] for number in known["removed_data"]),
        shifts=tuple(shifts) if known["shifts"] else (),
        asked=proof.asked,
    )
    selection = Selection(
        comparison=comparison,
        functions={news[number]: Role(role) for number, role in known["selected"]},
        data=atoms(known["travelling"]),
        pieces=tuple(Piece(new.sections[section], *bounds) for section, *bounds in known["pieces"]),
        entries={news[number]: tuple(map(_entry_again, rows)) for number, rows in known["entries"]},
        redirected=atoms(known["redirected"]),
        carriers={news[number]: atoms(rows) for number, rows in known["carriers"]},
        macros=read_macros(after),
        left_out=frozenset(atoms(known["left_out"])),
        forced={news[number]: tuple(names) for number, names in known["forced"]},
        everywhere=frozenset(atoms(known["everywhere"])),
        sets=atoms(known["sets"]),
        exits=atoms(known["exits"]),
    )
    refusals, warnings, accepted, noted = (
        tuple(Refusal(*row) for row in known[kind]) for kind in ("refusals", "warnings", "accepted", "noted")
    )
    ignored = {rule: tuple(what) for rule, what in known["ignored"].items()}
    judged = Judged(refusals, warnings, accepted, ignored, allowed, noted)
    return Diff(old.name, new.name, comparison, selection, judged)


def _difference(
    news: Sequence[Atom], number: int, verdict: str, reason: str, excused: Sequence[str]
) -> tuple[Atom, Difference]:
    return news[number], Difference(Verdict(verdict), reason, tuple(excused))


def _entry_again(row: Sequence[Any]) -> tables.Entry:
    name, section, index, start, end, relocations = row
    return tables.Entry(tables.BY_NAME[name], section, index, start, end, tuple(Relocation(*r) for r in relocations))

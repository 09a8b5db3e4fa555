"""Single mutations of real objects: one byte, relocation, symbol or attribute, and what the differ says of it.

    python -m tests.compare.single [--mutations N] [--seed S] [OBJECT ...]

Each mutated object is compared with the intact one. It must be called changed, be refused, hold only moved lines, or
differ in what a named rule ignores: `silent` counts those of which nothing at all is said.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from builder.binary import (
    ObjectFile,
    Relocation,
    Section,
    SectionIndex,
    SectionOffset,
    Symbol,
    elf,
    read_object,
    tables,
)
from builder.errors import BespokeError
from builder.pipeline import diff_objects
from tests.conftest import data_root

Random = random.Random
FLAGS: Final = (elf.SHF_WRITE, elf.SHF_ALLOC, elf.SHF_EXECINSTR, elf.SHF_MERGE, elf.SHF_STRINGS)


@dataclass(frozen=True)
class Mutated:
    """One change to an object: of which kind, in words, and the object that has it."""

    kind: str
    what: str
    object: ObjectFile


def _with_section(obj: ObjectFile, section: Section) -> ObjectFile:
    return replace(obj, sections=tuple(section if s.index == section.index else s for s in obj.sections))


def _with_symbol(obj: ObjectFile, symbol: Symbol) -> ObjectFile:
    return replace(obj, symbols=tuple(symbol if s.index == symbol.index else s for s in obj.symbols))


def _with_relocation(obj: ObjectFile, table: SectionIndex, at: int, row: Relocation) -> ObjectFile:
    rows = obj.relocations[table]
    return replace(obj, relocations={**obj.relocations, table: (*rows[:at], row, *rows[at + 1 :])})


def _bytes_of(obj: ObjectFile, rng: Random, wanted: Callable[[Section], bool]) -> tuple[str, ObjectFile] | None:
    found = [s for s in obj.sections if s.is_alloc and s.data and wanted(s)]
    if not found:
        return None
    section = rng.choices(found, [len(s.data) for s in found])[0]
    at = rng.randrange(len(section.data))
    data = bytearray(section.data)
    data[at] ^= 1 << rng.randrange(8)
    what = f"{section.name}+{at:#x}: {section.data[at]:02x} -> {data[at]:02x}"
    return what, _with_section(obj, section._replace(data=bytes(data)))


def _byte(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _bytes_of(obj, rng, lambda section: section.name not in tables.BY_NAME)


def _entry_byte(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _bytes_of(obj, rng, lambda section: section.name in tables.BY_NAME)


def _relocation(obj: ObjectFile, rng: Random) -> tuple[SectionIndex, int, Relocation] | None:
    found = [k for k, rows in obj.relocations.items() if rows and obj.sections[obj.sections[k].info].is_alloc]
    if not found:
        return None
    table = rng.choices(found, [len(obj.relocations[k]) for k in found])[0]
    at = rng.randrange(len(obj.relocations[table]))
    return table, at, obj.relocations[table][at]


def _relocated(
    obj: ObjectFile, rng: Random, change: Callable[[Relocation], Relocation]
) -> tuple[str, ObjectFile] | None:
    found = _relocation(obj, rng)
    if found is None:
        return None
    table, at, row = found
    new = change(row)
    if new == row:
        return None
    return f"{obj.sections[table].name}[{at}]: {row} -> {new}", _with_relocation(obj, table, at, new)


def _target(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    def elsewhere(row: Relocation) -> Relocation:
        symbol = obj.symbols[rng.randrange(1, len(obj.symbols))]
        same = symbol.value == obj.symbols[row.symbol].value and symbol.shndx == obj.symbols[row.symbol].shndx
        return row if same and symbol.is_defined else row._replace(symbol=symbol.index)

    return _relocated(obj, rng, elsewhere)


def _type(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _relocated(obj, rng, lambda row: row._replace(type=rng.choice((0, 1, 2, 4, 10, 11, 24))))


def _addend(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _relocated(obj, rng, lambda row: row._replace(addend=row.addend + rng.choice((-8, -4, -1, 1, 2, 4, 8, 16))))


def _symbol(obj: ObjectFile, rng: Random) -> Symbol | None:
    """One that is defined in memory and is no section, file or label of the assembler's."""
    found = [
        s
        for s in obj.symbols
        if s.is_defined and s.type not in (elf.STT_SECTION, elf.STT_FILE) and obj.sections[s.shndx].is_alloc
    ]
    return rng.choice(found) if found else None


def _symbolic(obj: ObjectFile, rng: Random, change: Callable[[Symbol], Symbol]) -> tuple[str, ObjectFile] | None:
    symbol = _symbol(obj, rng)
    if symbol is None or (new := change(symbol)) == symbol:
        return None
    return f"{symbol} -> {new}", _with_symbol(obj, new)


def _value(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _symbolic(
        obj, rng, lambda s: s._replace(value=max(s.value + rng.choice((-8, -1, 1, 4, 8)), SectionOffset(0)))
    )


def _size(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _symbolic(obj, rng, lambda s: s._replace(size=max(s.size + rng.choice((-8, -1, 1, 4, 8)), 0)))


def _binding(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _symbolic(obj, rng, lambda s: s._replace(bind=rng.choice((elf.STB_LOCAL, elf.STB_GLOBAL, elf.STB_WEAK))))


def _elsewhere(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    places = [s.index for s in obj.sections if s.is_alloc and s.size]
    return _symbolic(obj, rng, lambda s: s._replace(shndx=rng.choice(places)))


def _attribute(obj: ObjectFile, rng: Random, change: Callable[[Section], Section]) -> tuple[str, ObjectFile] | None:
    section = rng.choice([s for s in obj.sections if s.is_alloc and s.size])
    new = change(section)
    if new == section:
        return None
    what = f"{section.name}: flags {section.flags:#x} -> {new.flags:#x}, alignment {section.align} -> {new.align}"
    return what, _with_section(obj, new)


def _flag(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _attribute(obj, rng, lambda s: s._replace(flags=s.flags ^ rng.choice(FLAGS)))


def _alignment(obj: ObjectFile, rng: Random) -> tuple[str, ObjectFile] | None:
    return _attribute(obj, rng, lambda s: s._replace(align=rng.choice((1, 2, 4, 8, 16, 32, 64))))


KINDS: Final = {
    "byte": _byte,
    "entry's field": _entry_byte,
    "relocation's target": _target,
    "relocation's type": _type,
    "relocation's addend": _addend,
    "symbol's value": _value,
    "symbol's size": _size,
    "symbol's binding": _binding,
    "symbol's section": _elsewhere,
    "section's flag": _flag,
    "section's alignment": _alignment,
}


def mutations(obj: ObjectFile, count: int, seed: int) -> Iterator[Mutated]:
    """`count` single mutations of an object, the kinds in turn; the same for the same seed."""
    rng = Random(f"{seed}:{zlib.crc32(b''.join(s.data for s in obj.sections))}")  # wherever the file stands
    made = 0
    kinds = list(KINDS.items())
    for turn in range(count * 20):
        kind, change = kinds[turn % len(kinds)]
        found = change(obj, rng)
        if found is not None:
            made += 1
            yield Mutated(kind, *found)
        if made == count:
            return


def said(old: ObjectFile, mutated: ObjectFile) -> str:
    """What is said of a mutated object: "changed", "refused", "line only", "ignored by RULES", or "" for nothing."""
    try:
        found = diff_objects(old, mutated)
    except BespokeError as error:
        return f"refused: {type(error).__name__}"
    if found.verdict != "unchanged":
        return found.verdict
    if found.comparison.line_only:
        return "line only"
    if found.judged.ignored:
        return f"ignored by {', '.join(found.judged.ignored)}"
    return "changed" if found.comparison.changed else ""


def objects(root: Path) -> list[Path]:
    """Real objects of the test data, old and new ones."""
    return sorted(path for name in ("orig.o", "patched.o") for path in root.rglob(name))


def _judged(path: Path, count: int, seed: int) -> list[tuple[str, str, str]]:
    """Kind, words and what is said of each mutation of one object; a false alarm is a row of its own."""
    obj = read_object(path)
    alarm = said(obj, obj)
    rows = [("compared with itself", alarm, "")] if alarm else []
    return rows + [(m.kind, m.what, said(obj, m.object)) for m in mutations(obj, count, seed)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compare.single", description=__doc__.split("\n")[0])
    parser.add_argument("objects", nargs="*", type=Path, metavar="OBJECT", help="default: those of the test data")
    parser.add_argument("--mutations", type=int, default=20_000, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("--first", type=int, default=None, metavar="K", help="only the first K objects")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    paths = (options.objects or objects(data_root()))[: options.first]
    if not paths:
        console.print("no objects: name some, or set BESPOKE_DATA")
        return 2
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    silent = 0
    judge = partial(_judged, count=-(-options.mutations // len(paths)), seed=options.seed)
    with ProcessPoolExecutor(options.jobs) as pool:
        for path, answers in zip(paths, pool.map(judge, paths), strict=True):
            for kind, what, answer in answers:
                if kind in outcomes:
                    outcomes[kind][answer.partition(":")[0].partition(" by ")[0] or "silent"] += 1
                if not answer:
                    silent += 1
                    console.print(f"silent: {path.parent.name}: {kind}: {what}", markup=False)
    columns = sorted({answer for row in outcomes.values() for answer in row})
    table = Table("kind", *columns, box=None)
    for kind, row in outcomes.items():
        table.add_row(kind, *(str(row[column]) for column in columns))
    console.print(table)
    console.print(
        f"{len(paths)} objects, {sum(sum(row.values()) for row in outcomes.values())} mutations, {silent} silent"
    )
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Whether the debug information of an object has a location for a variable at a source line.

The object is the kernel's own code, byte by byte (the run-pre match has compared it), so that this is what any tool
which reads the image's debug information has to go by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from elftools.dwarf.locationlists import LocationEntry, LocationParser
from elftools.elf.elffile import ELFFile

from builder.acquire.tools import run


@dataclass(frozen=True, slots=True)
class Seen:
    """The addresses of a line in one function, and how many of them the variable has a location at."""

    addresses: int
    located: int


def location_of(obj: Path, function: str, line: int, variable: str) -> Seen:
    """Over all places where the compiler put the function, inlined ones too; the line is of the object's own file."""
    with TemporaryDirectory() as folder:
        linked = Path(folder) / "linked"
        # One address for each place: in the object all sections begin at 0.
        run(
            [
                "ld",
                "--unresolved-symbols=ignore-all",
                "--no-check-sections",
                "-Ttext=0x100000",
                "-e0",
                "-o",
                linked,
                obj,
            ]
        )
        dwarf: Any = ELFFile(BytesIO(linked.read_bytes())).get_dwarf_info()
        addresses = located = 0
        for unit in dwarf.iter_CUs():
            rows = list(_addresses(dwarf, unit, line))
            for die in unit.iter_DIEs():
                if die.tag not in ("DW_TAG_subprogram", "DW_TAG_inlined_subroutine") or _name(die) != function:
                    continue
                ranges = list(_ranges(dwarf, die))
                inside = [at for at in rows if any(start <= at < end for start, end in ranges)]
                addresses += len(inside)
                located += sum(any(_covers(dwarf, found, at) for found in _variables(die, variable)) for at in inside)
        return Seen(addresses, located)


def _name(die: Any) -> str:
    while "DW_AT_name" not in die.attributes and "DW_AT_abstract_origin" in die.attributes:
        die = die.get_DIE_from_attribute("DW_AT_abstract_origin")
    return die.attributes["DW_AT_name"].value.decode() if "DW_AT_name" in die.attributes else ""


def _addresses(dwarf: Any, unit: Any, line: int) -> Iterator[int]:
    """Where statements of a line of the unit's own file begin."""
    program = dwarf.line_program_for_CU(unit)
    own = unit.get_top_DIE().attributes["DW_AT_name"].value.rpartition(b"/")[2]
    names = [entry.name.rpartition(b"/")[2] for entry in program["file_entry"]]
    first = 0 if program["version"] >= 5 else 1
    for entry in program.get_entries():
        state = entry.state
        if state is None or state.end_sequence or state.line != line or not state.is_stmt:
            continue
        if names[state.file - first] == own:
            yield state.address


def _ranges(dwarf: Any, die: Any) -> Iterator[tuple[int, int]]:
    attributes = die.attributes
    if "DW_AT_ranges" in attributes:
        base = 0
        for row in dwarf.range_lists().get_range_list_at_offset(attributes["DW_AT_ranges"].value, die.cu):
            if hasattr(row, "base_address"):
                base = row.base_address
            else:
                offset = 0 if row.is_absolute else base
                yield row.begin_offset + offset, row.end_offset + offset
    elif "DW_AT_low_pc" in attributes:
        start, size = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"].value
        yield start, start + size


def _variables(die: Any, name: str) -> Iterator[Any]:
    for child in die.iter_children():
        if child.tag in ("DW_TAG_variable", "DW_TAG_formal_parameter") and _name(child) == name:
            yield child
        elif child.tag == "DW_TAG_lexical_block":
            yield from _variables(child, name)


def _covers(dwarf: Any, variable: Any, address: int) -> bool:
    """Whether there is a location, or a constant, for a variable at an address."""
    if "DW_AT_const_value" in variable.attributes:
        return True
    attribute = variable.attributes.get("DW_AT_location")
    if attribute is None:
        return False
    found: Any = LocationParser(dwarf.location_lists()).parse_from_attribute(
        attribute, variable.cu["version"], variable
    )
    if not isinstance(found, list):
        return bool(found.loc_expr)
    base = 0
    for row in found:
        if not isinstance(row, LocationEntry):
            base = row.base_address
        elif row.loc_expr:
            offset = 0 if row.is_absolute else base
            if row.begin_offset + offset <= address < row.end_offset + offset:
                return True
    return False

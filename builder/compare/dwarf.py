"""Source lines from DWARF, read by pyelftools from the few sections that hold them.

In a relocatable object every section starts at address 0; each gets an address
space of its own here, so that a line belongs to a section and an offset.
"""

from __future__ import annotations

from bisect import bisect_right
from io import BytesIO

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

from builder.binary import ObjectFile

_SPACE = 40  # bits of address space for each section


class LineTable:
    """(section index, offset) -> (file name, line)."""

    def __init__(self, rows: list[tuple[int, str, int]]) -> None:
        rows.sort(key=lambda r: r[0])
        self._addresses = [r[0] for r in rows]
        self._rows = rows

    @classmethod
    def of(cls, obj: ObjectFile) -> LineTable | None:
        """The line table of an object, or None if it has no readable one."""
        if ".debug_line" not in obj.by_name or ".debug_info" not in obj.by_name:
            return None
        try:
            return cls(_read(obj))
        except (DWARFError, ELFError, ValueError, KeyError, AttributeError, AssertionError):
            return None  # lines only ever excuse a difference: without them it stays one

    def find(self, section: int, offset: int) -> tuple[str, int] | None:
        """File and line of the instruction at an offset of a section."""
        address = section << _SPACE | offset
        at = bisect_right(self._addresses, address) - 1
        if at < 0:
            return None
        start, file, line = self._rows[at]
        return (file, line) if start >> _SPACE == section and line else None


def _read(obj: ObjectFile) -> list[tuple[int, str, int]]:
    info = _dwarf(obj)
    rows: list[tuple[int, str, int]] = []
    for unit in info.iter_CUs():
        program = info.line_program_for_CU(unit)
        if program is None:
            continue
        files = program.header["file_entry"]
        base = 0 if program.header["version"] >= 5 else 1
        names = {k + base: _text(f.name) for k, f in enumerate(files)}
        for entry in program.get_entries():
            state = entry.state
            if state is not None:
                line = 0 if state.end_sequence else state.line
                rows.append((state.address, names.get(state.file, "?"), line))
    return rows


def _text(name: object) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _dwarf(obj: ObjectFile) -> DWARFInfo:
    def stream(name: str) -> DebugSectionDescriptor | None:
        section = obj.by_name.get(name)
        if section is None:
            return None
        data = relocated(obj, name)
        return DebugSectionDescriptor(BytesIO(data), name, 0, len(data), 0)

    needed = {f"debug_{k}_sec": stream(f".debug_{k}") for k in
              ("info", "abbrev", "line", "str", "line_str", "str_offsets", "addr")}  # fmt: skip
    absent = dict.fromkeys(
        ("debug_aranges_sec", "debug_frame_sec", "eh_frame_sec", "debug_loc_sec", "debug_ranges_sec",
         "debug_pubtypes_sec", "debug_pubnames_sec", "debug_loclists_sec", "debug_rnglists_sec",
         "debug_sup_sec", "gnu_debugaltlink_sec", "debug_types_sec")
    )  # fmt: skip
    config = DwarfConfig(little_endian=obj.little, machine_arch="x64", default_address_size=8)
    return DWARFInfo(config=config, **needed, **absent)


def relocated(obj: ObjectFile, name: str) -> bytes:
    """A debug section with its absolute relocations written: S + A, sections apart by `_SPACE` bits."""
    section = obj.by_name[name]
    data = bytearray(section.data)
    order = "little" if obj.little else "big"
    symbols = obj.symbols
    for offset, kind, symbol, addend in obj.relocations_of(section.index):
        s = symbols[symbol]
        size = 8 if kind in (1, 257) else 4
        value = s.value + addend
        if size == 8 and s.is_defined:
            value += s.shndx << _SPACE
        data[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, order)  # type: ignore[arg-type]
    return bytes(data)

"""What a livepatch replaces, told from its file: the structures that its init function hands to the kernel.

They are written in three forms, each of which is read as the code that comes with it reads it:

* as `struct klp_patch` in the module's data (include/linux/livepatch.h, v5.4 and later: with `states`), by the modules
  of bespoke, of klp-convert and of whoever writes them by hand (samples/livepatch);
* as rows of `.kpatch.funcs`, from which kpatch's module code makes the others (kmod/patch/kpatch-patch.h);
* as rows of `.init.klp_objects` and `.init.klp_funcs` (`__klp_objects` and `__klp_funcs` in v6.19), which klp-build's
  module code reads (include/linux/livepatch_external.h, scripts/livepatch/init.c).

The sizes of `struct klp_func` and `struct klp_object` are the kernel's and in no file but its own. They are told from
how much room the arrays take, which the pointers in them count.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

from builder.arch import by_machine
from builder.binary.kinds import SectionIndex, SectionOffset
from builder.binary.klp import VMLINUX
from builder.binary.objects import ObjectFile, Section, Symbol
from builder.errors import InputError

KPATCH_FUNCS: Final = ".kpatch.funcs"
_KPATCH_CALLBACKS: Final = ".kpatch.callbacks."
_OBJECTS: Final = (".init.klp_objects", "__klp_objects")
_FUNCS: Final = (".init.klp_funcs", "__klp_funcs")
_KINDS: Final = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
"""The members of struct klp_callbacks, in order."""
_STATE: Final = struct.Struct("<QI12x")
"""struct klp_state: id, version, data"""
_FUNC_EXT: Final = 24
_OBJECT_EXT: Final = ((64, 56, True), (24, 16, False))
"""Size of struct klp_object_ext, offset of its nr_funcs, and whether it has callbacks (those moved to states later)."""


@dataclass(frozen=True, slots=True)
class ReplacedFunction:
    """A function of `object` that the function `new` of the module takes the place of; sizes in bytes.

    `sympos` is the place among the symbols of its name, 0 where there is one. `section` and `offset` say where the
    new version lies in the file; `new_size` and `old_size` are None where the file does not tell.
    """

    object: str
    name: str
    sympos: int
    new: str
    section: str
    offset: int
    new_size: int | None = None
    old_size: int | None = None


class Callback(NamedTuple):
    """A function of the module that the kernel calls when `object` is patched or unpatched."""

    object: str
    kind: str
    function: str


class SystemState(NamedTuple):
    """A change of the system's state that the livepatch knows of (Documentation/livepatch/system-state.rst)."""

    id: int
    version: int


@dataclass(frozen=True, slots=True)
class WrittenPatch:
    """What is handed to klp_enable_patch(); `replace` is None where only the module's code tells.

    `form` is `klp_patch`, `kpatch` or `klp-build`.
    """

    form: str
    functions: tuple[ReplacedFunction, ...]
    callbacks: tuple[Callback, ...] = ()
    states: tuple[SystemState, ...] = ()
    replace: bool | None = None

    @property
    def objects(self) -> tuple[str, ...]:
        """What is patched, `vmlinux` first."""
        found = dict.fromkeys([*(f.object for f in self.functions), *(c.object for c in self.callbacks)])
        return tuple(sorted(found, key=lambda name: (name != VMLINUX, name)))


def written_patch(obj: ObjectFile) -> WrittenPatch:
    """What the livepatch module `obj` replaces. Raises InputError where no form is found, or one that is damaged."""
    file = _File(obj)
    if KPATCH_FUNCS in obj.by_name:
        return _kpatch(file)
    for objects, funcs in zip(_OBJECTS, _FUNCS, strict=True):
        if objects in obj.by_name and funcs in obj.by_name:
            return _klp_build(file, obj.by_name[objects], obj.by_name[funcs])
    return _klp_patch(file)


class _Place(NamedTuple):
    """Where a pointer leads: an offset in a section, and the symbol by which it says so."""

    section: Section
    offset: SectionOffset
    symbol: Symbol


class _File:
    """A module's data, its pointers followed."""

    def __init__(self, obj: ObjectFile) -> None:
        self.obj = obj
        rows = by_machine(obj.machine, where=obj.name).relocations
        self._pointer = {number for number, row in rows.items() if row.size == 8 and not row.pc_relative}

    @cached_property
    def pointers(self) -> Mapping[SectionIndex, dict[int, _Place]]:
        """Of each section with data: offset -> where the pointer there leads to in this file."""
        found: dict[SectionIndex, dict[int, _Place]] = {}
        for section in self.obj.sections:
            if section.is_alloc and not section.is_exec:
                rows = found.setdefault(section.index, {})
                for r in self.obj.relocations_of(section.index):
                    symbol = self.obj.symbols[r.symbol]
                    if r.type in self._pointer and symbol.is_defined:
                        target = self.obj.sections[symbol.shndx]
                        rows[r.offset] = _Place(target, SectionOffset(symbol.value + r.addend), symbol)
        return found

    def text(self, place: _Place) -> str:
        """The string that a pointer leads to."""
        data, start = place.section.data, place.offset
        end = data.find(b"\0", start)
        if not 0 <= start < len(data) or end < 0:
            raise InputError(f"{place.section.name}+{start:#x} holds no text", where=self.obj.name)
        return data[start:end].decode("utf-8", "surrogateescape")

    def number(self, section: Section, offset: int, size: int = 8) -> int:
        """The number of `size` bytes there; InputError behind the section's end."""
        if not 0 <= offset <= len(section.data) - size:
            raise InputError(f"section {section.name} ends before {offset:#x}", where=self.obj.name)
        return int.from_bytes(section.data[offset : offset + size], "little")

    def function(self, place: _Place) -> Symbol | None:
        """The function that begins at a place."""
        here = [s for s in self.obj.symbols_in.get(place.section.index, ()) if s.value == place.offset]
        return next((s for s in here if s.is_function), here[0] if here else None)

    def row(self, owner: str, name: str, sympos: int, new: _Place) -> ReplacedFunction:
        symbol = self.function(new)
        size = symbol.size if symbol is not None and symbol.size else None
        return ReplacedFunction(owner, name, sympos, self.label(new), new.section.name, new.offset, size)

    def label(self, place: _Place) -> str:
        symbol = self.function(place)
        return symbol.name if symbol is not None else f"{place.section.name}+{place.offset:#x}"

    def broken(self, section: Section, offset: int, what: str) -> InputError:
        return InputError(f"section {section.name}+{offset:#x}: {what}", where=self.obj.name)


# kpatch


def _kpatch(file: _File) -> WrittenPatch:
    """Rows of new_addr, new_size, old_addr, old_size, sympos, name, objname: eight bytes each."""
    section = file.obj.by_name[KPATCH_FUNCS]
    pointers, size = file.pointers.get(section.index, {}), 56
    if section.size % size:
        raise file.broken(section, section.size, f"its rows are not of {size} bytes")
    functions = []
    for at in range(0, section.size, size):
        new, name, owner = (pointers.get(at + offset) for offset in (0, 40, 48))
        if new is None or name is None or owner is None:
            raise file.broken(section, at, "a row without function, name or object")
        row = file.row(file.text(owner), file.text(name), file.number(section, at + 32), new)
        functions.append(replace(row, old_size=file.number(section, at + 24)))
    callbacks = []
    for kind in _KINDS:
        rows = file.obj.by_name.get(_KPATCH_CALLBACKS + kind)
        found = file.pointers.get(rows.index, {}) if rows is not None else {}
        for at in range(0, rows.size if rows is not None else 0, 16):
            if at in found:
                callbacks.append(Callback(_owner(file, found.get(at + 8)), kind, file.label(found[at])))
    return WrittenPatch("kpatch", tuple(functions), tuple(callbacks))


# klp-build


def _klp_build(file: _File, objects: Section, funcs: Section) -> WrittenPatch:
    size, counts, has_callbacks = _layout(file, objects, funcs)
    pointers, rows = file.pointers.get(objects.index, {}), file.pointers.get(funcs.index, {})
    functions, callbacks = [], []
    for at, count in zip(range(0, objects.size, size), counts, strict=True):
        owner, first = _owner(file, pointers.get(at)), pointers.get(at + 8)
        if first is None or first.section is not funcs:
            raise file.broken(objects, at, "a row without functions")
        for k in range(count):
            here = first.offset + k * _FUNC_EXT
            name, new = rows.get(here), rows.get(here + 8)
            if name is None or new is None:
                raise file.broken(funcs, here, "a row without name or function")
            functions.append(file.row(owner, file.text(name), file.number(funcs, here + 16), new))
        callbacks += list(_callbacks(file, owner, pointers, at + 16)) if has_callbacks else []
    return WrittenPatch("klp-build", tuple(functions), tuple(callbacks))


def _layout(file: _File, objects: Section, funcs: Section) -> tuple[int, list[int], bool]:
    """The size of a row, its count of functions in each, and whether rows have callbacks: where the counts add up."""
    for size, count_at, has_callbacks in _OBJECT_EXT:
        if objects.size and objects.size % size == 0:
            counts = [file.number(objects, at + count_at, 4) for at in range(0, objects.size, size)]
            if sum(counts) * _FUNC_EXT == funcs.size and all(counts):
                return size, counts, has_callbacks
    raise file.broken(objects, 0, "rows of no known layout")


def _owner(file: _File, name: _Place | None) -> str:
    return file.text(name) if name is not None else VMLINUX


def _callbacks(file: _File, owner: str, pointers: Mapping[int, _Place], at: int) -> Iterator[Callback]:
    for k, kind in enumerate(_KINDS):
        if (place := pointers.get(at + 8 * k)) is not None:
            yield Callback(owner, kind, file.label(place))


# struct klp_patch


def _klp_patch(file: _File) -> WrittenPatch:
    """The structure whose first member is this module and whose second one leads to objects with functions."""
    for index, pointers in file.pointers.items():
        for at, place in pointers.items():
            objects = pointers.get(at + 8)
            if place.section.name == ".gnu.linkonce.this_module" and objects and _is_object(file, objects):
                return _Arrays(file, file.obj.sections[index], at, objects).read()
    raise InputError("no struct klp_patch is found in it", where=file.obj.name)


def _is_object(file: _File, place: _Place) -> bool:
    """Whether a struct klp_object may lie there: it leads to functions, or to the zeros that end an empty array."""
    funcs = file.pointers.get(place.section.index, {}).get(place.offset + 8)
    return funcs is not None and _is_data(place) and _is_data(funcs)


def _is_data(place: _Place) -> bool:
    return place.section.is_write and not place.section.is_exec


def _is_code(place: _Place) -> bool:
    return place.section.is_exec


class _Arrays:
    """The arrays behind a struct klp_patch at `at`, each of which ends with a row of zeros."""

    def __init__(self, file: _File, section: Section, at: int, objects: _Place) -> None:
        self.file, self.section, self.at, self.objects = file, section, at, objects

    def read(self) -> WrittenPatch:
        file, pointers = self.file, self.file.pointers
        functions, callbacks = [], []
        here = pointers[self.objects.section.index]
        for at in self._rows(self.objects, _is_data):
            owner, funcs = _owner(file, here.get(at)), here[at + 8]
            callbacks += list(_callbacks(file, owner, here, at + 16))
            rows = pointers.get(funcs.section.index, {})
            for row in self._rows(funcs, _is_code):
                if row not in rows:
                    raise file.broken(funcs.section, row, "a function without a name")
                sympos = file.number(funcs.section, row + 16)
                functions.append(file.row(owner, file.text(rows[row]), sympos, rows[row + 8]))
        others = bool(file.number(self.section, self.at + 24, 1))
        return WrittenPatch("klp_patch", tuple(functions), tuple(callbacks), tuple(self._states()), others)

    def _rows(self, first: _Place, counts: Callable[[_Place], bool]) -> list[int]:
        """Where the rows of an array begin: each has, at 8, one pointer for which `counts` holds."""
        start, end = first.offset, self._end(first)
        pointers = self.file.pointers.get(first.section.index, {})
        marks = [at for at in sorted(pointers) if start + 8 <= at < end and counts(pointers[at])]
        size, rest = divmod(end - start, len(marks) + 1)
        rows = [at - 8 for at in marks]
        if rest or rows != list(range(start, end - size, size)):
            raise self.file.broken(first.section, start, f"{len(marks)} rows and {end - start} bytes make no array")
        return rows

    def _end(self, first: _Place) -> int:
        """Where an array ends: with its symbol, or where the next thing begins that something points at."""
        for symbol in self.file.obj.symbols_in.get(first.section.index, ()):
            if symbol.value == first.offset and symbol.size:
                return first.offset + symbol.size
        known = self._borders(first.section)
        return known[min(bisect_left(known, first.offset + 1), len(known) - 1)]

    def _borders(self, section: Section) -> list[int]:
        """Offsets in a section where things begin, and its end."""
        led = (p.offset for rows in self.file.pointers.values() for p in rows.values() if p.section is section)
        named = (s.value for s in self.file.obj.symbols_in.get(section.index, ()))
        return sorted({*led, *named, section.size, *([self.at] if section is self.section else [])})

    def _states(self) -> Iterator[SystemState]:
        place = self.file.pointers[self.section.index].get(self.at + 16)
        if place is None:
            return
        for at in range(place.offset, place.section.size, _STATE.size):
            if at + _STATE.size > len(place.section.data):
                raise self.file.broken(place.section, at, "states without an end")
            number, version = _STATE.unpack_from(place.section.data, at)
            if not number:
                return
            yield SystemState(number, version)

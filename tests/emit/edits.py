"""Break an emitted module in one place: each edit takes the model of a module and gives another.

Nothing is renumbered; what is taken out stays as an empty section that no
loader looks at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from builder.binary import ObjectFile, Section, elf, ours, read_object, write_object
from builder.binary.manifest import SECTION

Edit = Callable[[ObjectFile], ObjectFile]


def with_section(obj: ObjectFile, changed: Section) -> ObjectFile:
    sections = tuple(changed if s.index == changed.index else s for s in obj.sections)
    return replace(obj, sections=sections)


def with_data(obj: ObjectFile, name: str, data: bytes) -> ObjectFile:
    return with_section(obj, obj.by_name[name]._replace(data=data, size=len(data)))


def without(obj: ObjectFile, *names: str) -> ObjectFile:
    """The sections are no longer loaded, nor what relocates them."""
    for name in names:
        gone = obj.by_name[name]
        for rela in [i for i in obj.relocations if obj.sections[i].info == gone.index]:
            obj = _emptied(obj, obj.sections[rela])
        obj = _emptied(obj, obj.by_name[name])
    return obj


def _emptied(obj: ObjectFile, section: Section) -> ObjectFile:
    empty = Section(section.index, f".gone.{section.index}", elf.SHT_PROGBITS, 0, 0, b"")
    kept = {i: rows for i, rows in obj.relocations.items() if i != section.index}
    return with_section(replace(obj, relocations=kept), empty)


def modinfo(key: str, change: Callable[[str], str] | None) -> Edit:
    """Change the value of a `.modinfo` entry, or with None take the entry out."""

    def edit(obj: ObjectFile) -> ObjectFile:
        rows = []
        for row in obj.by_name[".modinfo"].data.split(b"\0")[:-1]:
            name, _, value = row.decode().partition("=")
            if name != key:
                rows.append(row)
            elif change is not None:
                rows.append(f"{key}={change(value)}".encode())
        return with_data(obj, ".modinfo", b"".join(row + b"\0" for row in rows))

    return edit


def renamed(find: Callable[[str], bool], change: Callable[[str], str]) -> Edit:
    """Change the names of the symbols that `find` picks; there must be some."""

    def edit(obj: ObjectFile) -> ObjectFile:
        assert any(find(s.name) for s in obj.symbols), "nothing to rename"
        return replace(obj, symbols=tuple(s._replace(name=change(s.name)) if find(s.name) else s for s in obj.symbols))

    return edit


def named_as_originals(module: bytes) -> bytes:
    """A module like the first ones of ours, whose copies had the names of their originals."""
    obj = renamed(lambda name: name != ours.plain_name(name), ours.plain_name)(read_object(module))
    document = obj.by_name[SECTION].data
    plain = re.sub(rb'"symbol":"[^"]*\.livepatch",', b"", document).replace(b'.livepatch"', b'"')
    return write_object(with_data(obj, SECTION, plain))


def klp_sections(obj: ObjectFile) -> list[Section]:
    return [s for s in obj.sections if s.flags & elf.SHF_RELA_LIVEPATCH]

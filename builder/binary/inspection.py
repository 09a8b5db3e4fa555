"""What a module says of itself: anybody's livepatch, and any other module, told from its file alone."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from builder.binary import klp, tables
from builder.binary.livepatch import KPATCH_FUNCS, Callback, ReplacedFunction, WrittenPatch, written_patch
from builder.binary.manifest import Manifest
from builder.binary.module import ModuleFile
from builder.binary.objects import ObjectFile, Relocation, Section
from builder.binary.ours import is_glue
from builder.binary.signature import ModuleSignature, split
from builder.errors import InputError, UnknownError

_T = TypeVar("_T")
_MAKERS: Final = {"kpatch": "kpatch", "klp-build": "klp-build", "klp_patch": "hand or another tool"}
_MARK: Final = re.compile(r"bespoke_mark_\d+")
"""The record of a mark (templates/marks.c.j2)."""
_TOLD: Final = ("description", "author", "version", "license", "vermagic", "depends", "srcversion", "intree")
"""Keys of .modinfo that tell a person what a module is."""


class BoundSymbol(NamedTuple):
    """A symbol of `object` that livepatch resolves, and how many relocations lead to it."""

    object: str
    name: str
    sympos: int
    references: int


class BoundSection(NamedTuple):
    """How many relocations of `section` are written when `object` is loaded."""

    object: str
    section: str
    relocations: int


@dataclass(frozen=True)
class Inspection:
    """A module's contents. `patch` is None for a module that is no livepatch, or one that cannot be told (`problems`).

    `tables` maps the name of each special table to its entries, None where these cannot be counted; `checksums` the
    name of a sum to its value. `manifest` is that of a module of ours. `code` has, by the name of a new function, a
    sum of its instructions and of what they refer to. `marks` counts those of a module of ours.
    """

    where: str
    name: str
    made_by: str
    kernel: str
    info: Mapping[str, str]
    patch: WrittenPatch | None
    klp_symbols: tuple[BoundSymbol, ...]
    klp_sections: tuple[BoundSection, ...]
    imports: tuple[str, ...]
    tables: Mapping[str, int | None]
    parameters: tuple[str, ...]
    signature: ModuleSignature | None
    checksums: Mapping[str, str]
    problems: tuple[str, ...]
    manifest: Manifest | None = field(repr=False, default=None)
    code: Mapping[str, str] = field(repr=False, default_factory=dict)
    marks: int = 0

    @property
    def functions(self) -> tuple[ReplacedFunction, ...]:
        return self.patch.functions if self.patch is not None else ()

    @property
    def callbacks(self) -> tuple[Callback, ...]:
        """Those of the patch; the one that every module of ours has is the loader's."""
        rows = self.patch.callbacks if self.patch is not None else ()
        return tuple(row for row in rows if self.manifest is None or not is_glue(row.function))

    def role(self, function: ReplacedFunction) -> str:
        """Why a function travels, as our manifest says; empty in modules of others."""
        rows = self.manifest.functions if self.manifest is not None else ()
        return next((row.role for row in rows if row.redirected and row.symbol == function.new), "")

    def old_size(self, function: ReplacedFunction) -> int | None:
        """Bytes of the version that is replaced; None where nothing tells."""
        for row in self.manifest.functions if self.manifest is not None else ():
            if row.redirected and row.symbol == function.new and row.old is not None:
                return row.old.size
        return function.old_size

    def as_json(self) -> dict[str, Any]:
        """The document of `bespoke inspect --json`."""
        patch = self.patch
        return {
            "module": self.where,
            "name": self.name,
            "made_by": self.made_by,
            "kernel": self.kernel,
            "livepatch": "livepatch" in self.info,
            "info": dict(self.info),
            "objects": list(patch.objects) if patch else [],
            "functions": [
                asdict(f) | {"old_size": self.old_size(f), "role": self.role(f), "code": self.code.get(f.new, "")}
                for f in self.functions
            ],
            "callbacks": [c._asdict() for c in self.callbacks],
            "states": [s._asdict() for s in patch.states] if patch else [],
            "replace": patch.replace if patch else None,
            "klp_symbols": [s._asdict() for s in self.klp_symbols],
            "klp_sections": [s._asdict() for s in self.klp_sections],
            "imports": list(self.imports),
            "tables": dict(self.tables),
            "parameters": list(self.parameters),
            "signature": self.signature.as_json() if self.signature else None,
            "checksums": dict(self.checksums),
            "on": list(self.manifest.on) if self.manifest else [],
            "accepted": [r.as_json() for r in self.manifest.accepted] if self.manifest else [],
            "warnings": [r.as_json() for r in self.manifest.warnings] if self.manifest else [],
            "marks": self.marks,
            "problems": list(self.problems),
        }


def inspect(source: str | Path | bytes) -> Inspection:
    """What the module in a file (compressed or not) or in bytes contains.

    Raises InputError for what is no module at all. What cannot be told of one stands in `problems`.
    """
    module = ModuleFile.read(source)
    obj = module.object
    if not module.modinfo:
        raise InputError("not a kernel module: it has no .modinfo", where=module.where)
    problems: list[str] = []
    content, signature = module.data, None
    try:
        content, signature = split(module.data, where=module.where)
    except InputError as error:
        problems.append(error.message)
    manifest = _tried(lambda: Manifest.within(obj), problems)
    patch = _tried(lambda: written_patch(obj), problems) if module.is_livepatch else None
    release = module.info("vermagic") or ""
    return Inspection(
        where=module.where,
        name=module.name,
        made_by=_maker(obj, manifest, patch),
        kernel=release.partition(" ")[0],
        info={key: module.info(key) or "" for key in ("livepatch", *_TOLD) if module.info(key) is not None},
        patch=patch,
        klp_symbols=tuple(_klp_symbols(obj, problems)),
        klp_sections=tuple(_klp_sections(obj)),
        imports=tuple(s.name for s in obj.symbols if s.is_undefined and s.name),
        tables=dict(_tables(obj)),
        parameters=tuple(text.partition(":")[0] for text in module.modinfo.get("parm", ())) or _parameters(obj),
        signature=signature,
        checksums=_checksums(module, content),
        problems=tuple(dict.fromkeys(problems)),
        manifest=manifest,
        code=_codes(obj, patch.functions) if patch is not None else {},
        marks=sum(bool(_MARK.fullmatch(symbol.name)) for symbol in obj.symbols) if manifest is not None else 0,
    )


def _tried(read: Callable[[], _T], problems: list[str]) -> _T | None:
    try:
        return read()
    except InputError as error:
        problems.append(error.message)
        return None


def _maker(obj: ObjectFile, manifest: Manifest | None, patch: WrittenPatch | None) -> str:
    if manifest is not None:
        return "bespoke"
    if KPATCH_FUNCS in obj.by_name:
        return "kpatch"
    return _MAKERS[patch.form] if patch is not None else ""


def _klp_relocations(obj: ObjectFile) -> Iterator[tuple[Section, tuple[Relocation, ...]]]:
    for index, rows in obj.relocations.items():
        if klp.is_section(obj.sections[index].name):
            yield obj.sections[index], rows


def _klp_symbols(obj: ObjectFile, problems: list[str]) -> Iterator[BoundSymbol]:
    counts = Counter(row.symbol for rows in obj.relocations.values() for row in rows)
    for symbol in obj.symbols:
        if klp.is_symbol(symbol.name):
            try:
                yield BoundSymbol(*klp.parse_symbol(symbol.name), counts[symbol.index])
            except InputError as error:
                problems.append(error.message)


def _klp_sections(obj: ObjectFile) -> Iterator[BoundSection]:
    for table, rows in _klp_relocations(obj):
        owner = klp.object_named(table.name)
        target = obj.sections[table.info].name if table.info < len(obj.sections) else f"section {table.info}"
        yield BoundSection(owner or "", target, len(rows))


def _tables(obj: ObjectFile) -> Iterator[tuple[str, int | None]]:
    """Special tables with their entries; those of objtool have no relocations that would tell a size."""
    for section in obj.sections:
        row = tables.BY_NAME.get(section.name)
        if row is not None and section.size:
            try:
                yield section.name, len(tables.entries(obj, section, row))
            except UnknownError:
                yield section.name, None


def _parameters(obj: ObjectFile) -> tuple[str, ...]:
    """Those that have no description: the names in the section of struct kernel_param."""
    section = obj.by_name.get("__param")
    if section is None:
        return ()
    found = []
    for row in obj.relocations_of(section.index):
        symbol = obj.symbols[row.symbol]
        if symbol.is_defined and obj.sections[symbol.shndx].is_string:
            found.append(str(obj.sections[symbol.shndx].string_at(symbol.value + row.addend)))
    return tuple(found)


def _checksums(module: ModuleFile, content: bytes) -> dict[str, str]:
    """Sums of the module as it is and without its signature, and those that it carries itself."""
    found = {"sha256": hashlib.sha256(module.data).hexdigest()}
    if content is not module.data and len(content) != len(module.data):
        found["sha256 without signature"] = hashlib.sha256(content).hexdigest()
    if (section := module.object.by_name.get(".kpatch.checksum")) is not None:
        found["kpatch"] = section.data.rstrip(b"\0").decode("ascii", "backslashreplace").strip()
    for section in module.object.sections:
        if section.name == ".note.gnu.build-id" and len(section.data) > 16:
            found["build id"] = section.data[16:].hex()
    if (layout := (module.versions or {}).get("module_layout")) is not None:
        found["module_layout"] = f"{layout:#010x}"
    return found


def _codes(obj: ObjectFile, functions: Iterable[ReplacedFunction]) -> dict[str, str]:
    late: dict[int, list[Relocation]] = {}
    for table, rows in _klp_relocations(obj):
        late.setdefault(table.info, []).extend(rows)
    return {function.new: _code(obj, function, late) for function in functions}


def _code(obj: ObjectFile, function: ReplacedFunction, late: Mapping[int, Sequence[Relocation]]) -> str:
    """A sum of a function's bytes and of what they refer to: equal ones do the same on the same kernel.

    `late` are the livepatch relocations by the section that they are written to.
    """
    section = obj.by_name.get(function.section)
    if section is None or not function.new_size:
        return ""
    start, end = function.offset, function.offset + function.new_size
    digest = hashlib.sha256(section.data[start:end])
    for row in sorted([*obj.relocations_of(section.index), *late.get(section.index, ())]):
        if start <= row.offset < end:
            digest.update(f"{row.offset - start} {row.type} {_target(obj, row)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _target(obj: ObjectFile, row: Relocation) -> str:
    """What a relocation leads to, as far as possible by name: another build puts it elsewhere."""
    symbol = obj.symbols[row.symbol]
    if not symbol.is_section:
        return f"{symbol.name}+{row.addend}"
    section = obj.sections[symbol.shndx]
    if section.is_string and not section.is_exec and row.addend >= 0:
        return str(section.string_at(symbol.value + row.addend))
    return f"{section.name}+{row.addend}"


@dataclass(frozen=True)
class ModuleDifference:
    """What differs between two modules: functions by name, and rows of (what, before, now)."""

    added: tuple[ReplacedFunction, ...]
    removed: tuple[ReplacedFunction, ...]
    changed: tuple[tuple[ReplacedFunction, ReplacedFunction], ...]
    same: tuple[ReplacedFunction, ...]
    facts: tuple[tuple[str, str, str], ...]

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed or self.facts)

    def as_json(self) -> dict[str, Any]:
        def names(rows: tuple[ReplacedFunction, ...]) -> list[str]:
            return [f"{row.object}:{row.name}" for row in rows]

        return {
            "added": names(self.added),
            "removed": names(self.removed),
            "changed": names(tuple(row for _, row in self.changed)),
            "same": names(self.same),
            "facts": [{"what": what, "old": old, "new": new} for what, old, new in self.facts],
        }


def compare(old: Inspection, new: Inspection) -> ModuleDifference:
    """What the second module does otherwise than the first one."""
    sides = [{(f.object, f.name, f.sympos): f for f in side.functions} for side in (old, new)]
    before, now = sides
    both = [key for key in now if key in before]

    def is_same(key: tuple[str, str, int]) -> bool:
        codes = old.code.get(before[key].new), new.code.get(now[key].new)
        return bool(codes[0]) and codes[0] == codes[1] and before[key].new_size == now[key].new_size

    return ModuleDifference(
        added=tuple(row for key, row in now.items() if key not in before),
        removed=tuple(row for key, row in before.items() if key not in now),
        changed=tuple((before[key], now[key]) for key in both if not is_same(key)),
        same=tuple(now[key] for key in both if is_same(key)),
        facts=tuple(_facts(old, new)),
    )


def _facts(old: Inspection, new: Inspection) -> Iterator[tuple[str, str, str]]:
    for what in ("name", "made_by", "kernel"):
        if getattr(old, what) != getattr(new, what):
            yield what.replace("_", " "), getattr(old, what), getattr(new, what)
    for key in dict.fromkeys((*old.info, *new.info)):
        if old.info.get(key) != new.info.get(key):
            yield key, old.info.get(key, ""), new.info.get(key, "")
    rows: list[tuple[str, Callable[[Inspection], object]]] = [
        ("replace", lambda side: side.patch.replace if side.patch else None),
        ("objects", lambda side: ", ".join(side.patch.objects) if side.patch else ""),
        (
            "callbacks",
            lambda side: ", ".join(f"{c.object}:{c.kind}" for c in side.patch.callbacks) if side.patch else "",
        ),
        ("states", lambda side: ", ".join(f"{s.id}:{s.version}" for s in side.patch.states) if side.patch else ""),
        ("bound to", lambda side: ", ".join(sorted(f"{s.object}:{s.name},{s.sympos}" for s in side.klp_symbols))),
        ("imports", lambda side: ", ".join(sorted(side.imports))),
        ("signed by", lambda side: (side.signature.issuer or side.signature.key_id) if side.signature else ""),
    ]
    for what, told in rows:
        if (before := told(old)) != (now := told(new)):
            yield what, str(before), str(now)

"""The manifest: what a module of ours is, what it carries and what it is bound to, as JSON in a section of its own.

The section is not loaded. Equal manifests give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, TypeVar

from builder.binary.objects import ObjectFile
from builder.codes import WrittenCode
from builder.errors import InputError, Refusal

SECTION: Final = ".bespoke.manifest"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class TargetKernel:
    """The kernel that the module is for; `sha256` is that of the image's file."""

    release: str
    sha256: str
    vermagic: str


class MapRow(NamedTuple):
    """An instruction of the old version and its place in the new one: offsets in bytes, confidence of 100.

    `same` is a mask of what holds the same at both; `new_part` is the symbol of the `.cold` part that it lies in now.
    """

    old_offset: int
    new_offset: int
    confidence: int
    same: int
    new_part: str = ""

    def as_json(self) -> list[Any]:
        return list(self) if self.new_part else list(self[:4])


@dataclass(frozen=True, slots=True)
class CarriedPart:
    """A `.cold` part of the old version of a function, `size` in bytes, and what became of its instructions.

    `points` are the places of those that the new version does not have: where it is between the same neighbours.
    `base` is its symbol in the module of ours whose version that is, empty where it is the original's.
    """

    name: str
    sympos: int
    size: int
    map: tuple[MapRow, ...]
    points: tuple[MapRow, ...] = ()
    base: str = ""

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "sympos": self.sympos, "size": self.size}
        row |= {"map": [cells.as_json() for cells in self.map]} | _points(self.points)
        return row | ({"base": self.base} if self.base else {})


def _points(rows: tuple[MapRow, ...]) -> dict[str, Any]:
    return {"points": [row.as_json() for row in rows]} if rows else {}


@dataclass(frozen=True, slots=True)
class Original:
    """The old version of a function in the objects: its size in bytes and the SHA-256 of its unrelocated code.

    `name` and `sympos` say what it is in the running object, where it was found there.
    """

    size: int
    hash: str
    name: str = ""
    sympos: int = 0


@dataclass(frozen=True, slots=True)
class CarriedFunction:
    """A function of the module, of an `object` that is patched; `role` says why it travels, `symbol` is its name in
    the module (the first modules of ours gave it the original's).

    `late` are offsets where no kprobe may stand before the patched object is there. `map` is None for a function that
    takes no place of another; `points` are those of a part. Where the map begins at the version of an earlier module of
    ours, `since` names that module and `base` the symbol in it; both are empty else.
    """

    name: str
    symbol: str
    object: str
    role: str
    new_size: int
    new_hash: str
    old: Original | None = None
    redirected: bool = False
    late: tuple[int, ...] = ()
    map: tuple[MapRow, ...] | None = None
    points: tuple[MapRow, ...] = ()
    since: str = ""
    base: str = ""
    parts: tuple[CarriedPart, ...] = ()

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": self.name,
            "symbol": self.symbol,
            "object": self.object,
            "role": self.role,
            "new_size": self.new_size,
            "new_hash": self.new_hash,
        }
        if self.old is not None:
            row |= {"old_size": self.old.size, "old_hash": self.old.hash}
            if self.old.name:
                row |= {"old_name": self.old.name, "sympos": self.old.sympos}
        row["redirected"] = self.redirected
        if self.late:
            row["late"] = list(self.late)
        if self.map is not None:
            row["map"] = [cells.as_json() for cells in self.map]
        row |= _points(self.points)
        if self.since:
            row |= {"since": self.since, "base": self.base}
        if self.parts:
            row["parts"] = [part.as_json() for part in self.parts]
        return row


@dataclass(frozen=True, slots=True)
class WrittenBinding:
    """A livepatch relocation: of `type` at `offset` in `section`, written when `patched` is loaded.

    It leads to `addend` bytes from the `sympos`-th `symbol` of `object`.
    """

    section: str
    offset: int
    type: int
    patched: str
    object: str
    symbol: str
    sympos: int
    addend: int


@dataclass(frozen=True, slots=True)
class SetWord:
    """`width` bytes at `offset` of a variable of `object` that are exchanged while the module is loaded."""

    object: str
    name: str
    offset: int
    width: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The document. `on` are the modules below that this one is bound to, the nearest first.

    `special_entries` counts the entries of each special table by the function that they belong to. `compiler` is what
    compiled the objects of a source patch: its version line, then the packages (NAME=VERSION) of one that was fetched.
    """

    name: str
    kernel: TargetKernel
    replace: bool
    on: tuple[str, ...]
    objects: tuple[str, ...]
    functions: tuple[CarriedFunction, ...]
    bindings: tuple[WrittenBinding, ...]
    special_entries: Mapping[str, Mapping[str, int]]
    accepted: tuple[Refusal, ...]
    warnings: tuple[Refusal, ...]
    sets: tuple[SetWord, ...] = ()
    compiler: tuple[str, ...] = ()

    @property
    def redirected(self) -> tuple[CarriedFunction, ...]:
        """The functions that take the place of an original."""
        return tuple(row for row in self.functions if row.redirected)

    def as_json(self) -> dict[str, Any]:
        """The document as `bespoke build --json` prints it."""
        return {
            "format": FORMAT,
            "name": self.name,
            "kernel": asdict(self.kernel),
            "replace": self.replace,
            "on": list(self.on),
            "objects": list(self.objects),
            "functions": [row.as_json() for row in self.functions],
            "bindings": [{name: getattr(row, name) for name in WrittenBinding.__slots__} for row in self.bindings],
            "special_entries": {table: dict(row) for table, row in self.special_entries.items()},
            "accepted": [row.as_json() for row in self.accepted],
            "warnings": [row.as_json() for row in self.warnings],
            **({"sets": [asdict(row) for row in self.sets]} if self.sets else {}),
            **({"compiler": list(self.compiler)} if self.compiler else {}),
        }

    def to_bytes(self) -> bytes:
        """The contents of its section."""
        return json.dumps(self.as_json(), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Manifest:
        """The contents of such a section. InputError says what is wrong with it."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"its manifest cannot be read: {error}", where=where) from None
        return cls.from_json(document, where=where)

    @classmethod
    def from_json(cls, document: object, *, where: str) -> Manifest:
        """The document as read. InputError names what is missing in it, or of another kind."""
        try:
            return _manifest(_Item(document, "it"))
        except _WrongError as wrong:
            raise InputError(f"its manifest cannot be read: {wrong}", where=where) from None

    @classmethod
    def within(cls, obj: ObjectFile) -> Manifest | None:
        """That of a module; None where there is none. InputError for a damaged one."""
        section = obj.by_name.get(SECTION)
        return cls.from_bytes(section.data, where=obj.name) if section is not None else None


class _WrongError(Exception):
    """What in a document is not as it should be."""


_Kind = TypeVar("_Kind")
_KINDS: Final = {str: "a text", int: "a number", bool: "true or false", list: "a list", dict: "an object"}


class _Item:
    """A part of a document that was read, and its name for messages."""

    def __init__(self, value: object, name: str) -> None:
        self.value = value
        self.name = name

    def has(self, key: str) -> bool:
        return key in self.as_(dict)

    def __getitem__(self, key: str) -> _Item:
        row = self.as_(dict)
        name = f"{self.name}.{key}" if self.name != "it" else key
        if key not in row:
            raise _WrongError(f"{name} is missing")
        return _Item(row[key], name)

    def as_(self, kind: type[_Kind]) -> _Kind:
        if not isinstance(self.value, kind) or (kind is int and isinstance(self.value, bool)):
            raise _WrongError(f"{self.name} is not {_KINDS[kind]}")
        return self.value

    def __iter__(self) -> Iterator[_Item]:
        return (_Item(value, f"{self.name}[{k}]") for k, value in enumerate(self.as_(list)))

    def optional(self, key: str) -> Iterator[_Item]:
        """The items of a list that may be left out."""
        return iter(self[key]) if self.has(key) else iter(())


def _manifest(item: _Item) -> Manifest:
    if (found := item["format"].as_(int)) != FORMAT:
        raise _WrongError(f"it is of format {found}, not {FORMAT}")
    kernel, entries = item["kernel"], item["special_entries"]
    return Manifest(
        name=item["name"].as_(str),
        kernel=TargetKernel(*(kernel[key].as_(str) for key in ("release", "sha256", "vermagic"))),
        replace=item["replace"].as_(bool),
        on=tuple(row.as_(str) for row in item.optional("on")),
        objects=tuple(row.as_(str) for row in item["objects"]),
        functions=tuple(_function(row) for row in item["functions"]),
        bindings=tuple(_binding(row) for row in item["bindings"]),
        special_entries={
            table: {function: entries[table][function].as_(int) for function in entries[table].as_(dict)}
            for table in entries.as_(dict)
        },
        accepted=tuple(_note(row) for row in item["accepted"]),
        warnings=tuple(_note(row) for row in item["warnings"]),
        sets=tuple(
            SetWord(row["object"].as_(str), row["name"].as_(str), row["offset"].as_(int), row["width"].as_(int))
            for row in item.optional("sets")
        ),
        compiler=tuple(row.as_(str) for row in item.optional("compiler")),
    )


def _function(item: _Item) -> CarriedFunction:
    old = None
    if item.has("old_size"):
        found = (item["old_name"].as_(str), item["sympos"].as_(int)) if item.has("old_name") else ("", 0)
        old = Original(item["old_size"].as_(int), item["old_hash"].as_(str), *found)
    redirected = item["redirected"].as_(bool)
    if (redirected or item.has("map")) and (old is None or not old.name):
        raise _WrongError(f"{item.name}.old_name is missing")
    since = (item["since"].as_(str), item["base"].as_(str)) if item.has("since") else ("", "")
    return CarriedFunction(
        name=item["name"].as_(str),
        symbol=item["symbol" if item.has("symbol") else "name"].as_(str),
        object=item["object"].as_(str),
        role=item["role"].as_(str),
        new_size=item["new_size"].as_(int),
        new_hash=item["new_hash"].as_(str),
        old=old,
        redirected=redirected,
        late=tuple(row.as_(int) for row in item.optional("late")),
        map=_map(item["map"]) if item.has("map") else None,
        points=_map(item.optional("points")),
        since=since[0],
        base=since[1],
        parts=tuple(
            CarriedPart(
                row["name"].as_(str),
                row["sympos"].as_(int),
                row["size"].as_(int),
                _map(row["map"]),
                _map(row.optional("points")),
                row["base"].as_(str) if row.has("base") else "",
            )
            for row in item.optional("parts")
        ),
    )


def _map(items: Iterable[_Item]) -> tuple[MapRow, ...]:
    rows = []
    for row in items:
        cells = list(row)
        if len(cells) not in (4, 5):
            raise _WrongError(f"{row.name} has {len(cells)} cells, not 4 or 5")
        old, new, confidence, same = (cell.as_(int) for cell in cells[:4])
        rows.append(MapRow(old, new, confidence, same, *(cell.as_(str) for cell in cells[4:])))
    return tuple(rows)


def _binding(item: _Item) -> WrittenBinding:
    return WrittenBinding(
        section=item["section"].as_(str),
        offset=item["offset"].as_(int),
        type=item["type"].as_(int),
        patched=item["patched"].as_(str),
        object=item["object"].as_(str),
        symbol=item["symbol"].as_(str),
        sympos=item["sympos"].as_(int),
        addend=item["addend"].as_(int),
    )


def _note(item: _Item) -> Refusal:
    """A refusal that was accepted, or a warning: neither is fatal. The first modules tell only the three."""
    code, symbol, message = (item[key].as_(str) for key in ("code", "symbol", "message"))
    section, advice = (item[key].as_(str) if item.has(key) else "" for key in ("section", "advice"))
    return Refusal(WrittenCode(code), symbol, section, message, advice, fatal=False)

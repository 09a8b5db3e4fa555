"""The trail: which livepatches of ours a kernel carries, and what was planted for them.

It is written before each step that it describes, whole or not at all, so that
whoever finds it can tell how far a process came that was killed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from builder.binary import Address, read_object
from builder.binary.manifest import Manifest
from builder.errors import InputError
from builder.image.machine import Host
from builder.operate.kprobes import Report, Version

STATE = "/run/bespoke"
FORMAT = 1
_BOOT = "/proc/sys/kernel/random/boot_id"


class Phase(Enum):
    """How far a livepatch has come: the step that was begun last."""

    LOADING = "loading"
    ENABLED = "enabled"
    UNLOADING = "unloading"


@dataclass(frozen=True, slots=True)
class Moved:
    """A place that was appended: the event's line, the place it stands for, confidence of 100."""

    line: str
    source: str
    confidence: int


@dataclass(frozen=True, slots=True)
class Record:
    """One livepatch of ours."""

    module: str
    phase: Phase
    manifest: Manifest
    moved: tuple[Moved, ...] = ()
    reports: tuple[Report, ...] = ()
    unoptimized: bool = False
    """Whether the kernel's optimization of kprobes is switched off for the moment, and must come on again."""

    @property
    def version(self) -> Version:
        return Version.of(self.manifest)

    @property
    def below(self) -> tuple[str, ...]:
        """The modules that it refers to, which must stay while it does."""
        return self.manifest.on

    def as_json(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "phase": self.phase.value,
            "manifest": self.manifest.as_json(),
            "moved": [asdict(row) for row in self.moved],
            "reports": [row.as_json() for row in self.reports],
            "unoptimized": self.unoptimized,
        }


@dataclass(frozen=True)
class Trail:
    """All records, oldest first, of one boot of one kernel."""

    boot: str
    records: tuple[Record, ...] = field(default=())
    addresses: Mapping[str, Address] = field(default_factory=dict)
    """What kprobe_events shows for a place by address, which is a hash of it (`%p`), and the address."""

    def find(self, module: str) -> Record | None:
        return next((row for row in self.records if row.module == module), None)

    @property
    def interrupted(self) -> Record | None:
        """One whose last step was not finished: a process was killed, or still works on it."""
        return next((row for row in self.records if row.phase is not Phase.ENABLED), None)

    def with_(self, record: Record) -> Trail:
        """With a record put in the place of that of its module, or at the end."""
        if self.find(record.module) is None:
            return replace(self, records=(*self.records, record))
        return replace(self, records=tuple(record if r.module == record.module else r for r in self.records))

    def without(self, module: str) -> Trail:
        return replace(self, records=tuple(row for row in self.records if row.module != module))


def read_trail(host: Host, state: str = STATE) -> Trail:
    """The trail of this boot, empty where there is none. InputError for a file that is damaged."""
    boot = host.read(_BOOT).strip()
    path = _path(state)
    try:
        text = host.read(path)
    except FileNotFoundError:
        return Trail(boot)
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise InputError(f"is of format {document['format']}, not {FORMAT}", where=path)
        if document["boot"] != boot:
            return Trail(boot)
        addresses = {str(text): Address(number) for text, number in document.get("addresses", {}).items()}
        return Trail(boot, tuple(_record(row, path) for row in document["records"]), addresses)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the recorded state is damaged: {error}", where=path) from None


def write_trail(host: Host, trail: Trail, state: str = STATE) -> None:
    """Put the trail down, whole or not at all."""
    document = {
        "format": FORMAT,
        "boot": trail.boot,
        "records": [row.as_json() for row in trail.records],
        "addresses": dict(trail.addresses),
    }
    host.store(_path(state), json.dumps(document, separators=(",", ":")))


def _path(state: str) -> str:
    return f"{state}/trail.json"


def _record(row: Mapping[str, Any], where: str) -> Record:
    return Record(
        str(row["module"]),
        Phase(row["phase"]),
        Manifest.from_json(row["manifest"], where=where),
        tuple(Moved(**found) for found in row["moved"]),
        tuple(Report(**found) for found in row["reports"]),
        bool(row.get("unoptimized")),
    )


def manifest_of(module: bytes, where: str) -> Manifest:
    """The manifest inside a module. InputError for a module that is not of our making."""
    found = Manifest.within(read_object(module, name=where))
    if found is None:
        raise InputError("is no livepatch of ours: it has no manifest", where=where)
    return found


def versions(records: Sequence[Record]) -> tuple[Version, ...]:
    """What the recorded modules carry, oldest first."""
    return tuple(row.version for row in records)

"""Livepatches of ours that something else has loaded: known by the note that the kernel shows of each module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from builder.binary.loaded_note import SECTION, from_note
from builder.errors import InputError
from builder.image.machine import MODULES, Host, patch_state
from builder.image.transition import LIVEPATCHES
from builder.operate.trail import Phase, Record, Trail


def unrecorded(host: Host, trail: Trail) -> Iterator[Record]:
    """A record of each livepatch that is enabled, is one of ours and is in no record, oldest first."""
    for name in by_age(host, host.names(LIVEPATCHES)):
        state = patch_state(host, name)
        if trail.find(name) is None and state is not None and state.enabled:
            record = told(host, name)
            if record is not None:
                yield record


def told(host: Host, name: str) -> Record | None:
    """What a loaded module says of itself; None where it is none of ours, or of a release that left no note."""
    place = f"{MODULES}/{name}/notes/{SECTION}"
    try:
        manifest = from_note(host.read(place), where=place)
    except (OSError, InputError):
        return None
    return Record(name, Phase.ENABLED, manifest) if manifest.name == name else None


def by_age(host: Host, names: Iterable[str]) -> list[str]:
    """Modules, those loaded first before others; what is not loaded comes at the end."""
    try:
        loaded = [line.split()[0] for line in host.read("/proc/modules").splitlines()][::-1]
    except FileNotFoundError:  # a kernel without modules
        loaded = []
    return sorted(names, key=lambda name: loaded.index(name) if name in loaded else len(loaded))

"""Marks tried without a machine: the marked function runs in the simulated kernel, and what would be recorded is shown.

What needs more than memory (a task, a lock that is contended, a device) ends it with the instruction that could not go
on; the records until then are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.acquire.marks.fields import MarkField
from builder.acquire.marks.judging import PlacedMark
from builder.acquire.marks.records import mark_symbol
from builder.acquire.marks.source import MarkedSource
from builder.binary import Address
from builder.binary.kernel import Kernel
from builder.binary.manifest import CarriedFunction, Manifest
from builder.errors import LoadError, UsageError
from builder.image.derive import derive_state
from builder.image.execute import Argument, Fault, Machine
from builder.image.simulated import SimulatedKernel
from builder.load import livepatch
from builder.load.boot import boot
from builder.load.loader import load_module, load_with_dependencies
from builder.load.module import LoadedModule

_ARGUMENT = re.compile(
    r"\s*(?:(?P<number>-?(?:0[xX][0-9a-fA-F]+|\d+))|\"(?P<text>(?:[^\"\\]|\\.)*)\"|@(?P<room>\d+)|"
    r"@(?:struct\s+)?(?P<struct>[A-Za-z_]\w*))\s*(?:,|\Z)"
)


@dataclass(frozen=True, slots=True)
class SimulatedRecord:
    """What one hit of a mark hands over: the fields of a record, or `value` of what is added up."""

    mark: str
    fields: Mapping[str, int | str]

    def as_json(self) -> dict[str, Any]:
        return {"mark": self.mark, "fields": dict(self.fields)}


@dataclass(frozen=True, slots=True)
class MarkCheck:
    """What became of a call of `function`: its `value` as a C long, or in `problem` why it did not return."""

    function: str
    records: tuple[SimulatedRecord, ...]
    value: int | None
    problem: str

    def as_json(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "records": [record.as_json() for record in self.records],
            "value": self.value,
            "problem": self.problem,
        }


def call_arguments(text: str, kernel: Kernel) -> tuple[Argument, ...]:
    """The arguments of a call: numbers, "texts", @N for N bytes of zeros, @NAME for a zeroed structure.

    UsageError for anything else.
    """
    found: list[Argument] = []
    at = 0
    while at < len(text.rstrip()):
        match = _ARGUMENT.match(text, at)
        if match is None:
            wanted = 'numbers, "texts", @64 (bytes of zeros) and @struct NAME, with commas'
            raise UsageError(f"--check takes arguments: {wanted}; not {text[at:].strip()!r}")
        at = match.end()
        if match["number"]:
            found.append(int(match["number"], 0) & ((1 << 64) - 1))
        elif match["text"] is not None:
            found.append(re.sub(r"\\(.)", r"\1", match["text"]))
        else:
            found.append(bytes(int(match["room"]) if match["room"] else kernel.layout(match["struct"]).size))
    return tuple(found)


def check_marks(
    module: bytes, source: MarkedSource, kernel: Kernel, arguments: Sequence[Argument], objects: Mapping[str, Path]
) -> MarkCheck:
    """Load a module of marks into the simulated kernel, switch them on and call the function of the first of them.

    Raises LoadError where the module cannot be loaded there.
    """
    simulated = boot(kernel, derive_state(kernel, "max"))
    loaded = load_module(simulated, module)
    manifest = Manifest.within(loaded.file.object)
    assert manifest is not None
    for name in manifest.objects:
        if name != "vmlinux" and (path := objects.get(name) or kernel.find_module(name)) is not None:
            load_with_dependencies(simulated, path, objects)
    livepatch.run_init(simulated, loaded)
    records: list[SimulatedRecord] = []
    for one, fields in zip(source.placed, source.fields, strict=True):
        _switch_on(simulated, loaded, one, fields, records)
    wanted = source.placed[0].spots[0].function.name
    function = next((f for f in manifest.redirected if f.name.partition(".")[0] == wanted), manifest.redirected[0])
    value, problem = None, ""
    try:
        value = simulated.call(_old_address(simulated, function), *arguments).signed
    except Fault as fault:
        problem = str(fault)
    return MarkCheck(function.name, tuple(records), value, problem)


def _old_address(simulated: SimulatedKernel, function: CarriedFunction) -> Address:
    """Where callers of a replaced function go: its entry, which leads to the new version."""
    for patch in simulated.livepatches:
        for found in patch.objects:
            for replaced in found.functions:
                if (found.name or "vmlinux", replaced.name) == (function.object, function.name):
                    return replaced.old
    raise LoadError(f"{function.name} is not replaced: its object {function.object} is not loaded")


def _switch_on(
    simulated: SimulatedKernel,
    loaded: LoadedModule,
    one: PlacedMark,
    fields: Sequence[MarkField],
    records: list[SimulatedRecord],
) -> None:
    """Let a mark be on, and what it emits come here."""
    on, emit, until = (_symbol(loaded, kind, one) for kind in ("on", "emit", "until"))
    assert on is not None and emit is not None
    simulated.memory.write(on, bytes([True]))

    def record(machine: Machine) -> int:
        if one.said.value is not None:
            records.append(SimulatedRecord(one.event, {one.mark.aggregate: _signed(machine.argument(0))}))
        else:
            shown = () if one.mark.aggregate else fields
            records.append(SimulatedRecord(one.event, dict(_shown(machine, shown))))
        return 0

    simulated.execution.stub(emit, record)
    if until is not None:
        end = SimulatedRecord(one.event, {"ended": 1})
        simulated.execution.stub(until, lambda machine: records.append(end))


def _symbol(loaded: LoadedModule, kind: str, one: PlacedMark) -> Address | None:
    return loaded.symbol(mark_symbol(kind, loaded.name, one.number))


def _shown(machine: Machine, fields: Sequence[MarkField]) -> Iterator[tuple[str, int | str]]:
    for number, field in enumerate(fields):
        value = machine.argument(number)
        if field.text:
            yield field.name, _text(machine, value) if field.is_string else value
        elif field.symbols:
            names = {int(n): name for n, name in re.findall(r"\{ (-?\d+), \"([^\"]*)\" \}", field.symbols)}
            yield field.name, names.get(_signed(value), _signed(value))
        else:
            yield field.name, _signed(value) if field.signed else value


def _text(machine: Machine, address: int) -> str:
    if not address:
        return "(null)"
    try:
        return machine.string(Address(address), 256)
    except LoadError:
        return "(fault)"


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value

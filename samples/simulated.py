"""The samples in a simulated kernel: what their functions say before, with and after the patch. No VM, no root."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.binary import Address
from builder.binary.module import ModuleFile
from builder.image.simulated import SimulatedKernel
from builder.load.livepatch import disable_patch, run_init
from builder.load.loader import load_module, unload_module
from samples.objects import TARGET_NAME

PHASES = ("before", "with", "after")


@dataclass(frozen=True, slots=True)
class Call:
    """A call as a person would write it, and what makes it: the answer as text."""

    text: str
    make: Callable[[SimulatedKernel], str]


def seq_file(simulated: SimulatedKernel) -> tuple[Address, Address]:
    """A struct seq_file with room for a page, and where its text comes to stand."""
    layout = simulated.kernel.layout("seq_file")
    file, text = simulated.execution.heap.allocate(layout.size), simulated.execution.heap.allocate(4096)
    simulated.memory.write(file, bytes(layout.size))
    simulated.memory.write_u64(file + layout.offset_of("buf"), text)
    simulated.memory.write_u64(file + layout.offset_of("size"), 4096)
    return file, text


def seq_file_text(simulated: SimulatedKernel, function: str) -> str:
    """What a show function (struct seq_file *, void *) writes."""
    file, text = seq_file(simulated)
    simulated.call(function, file, 0)
    return simulated.memory.string(text)


def _show(function: str) -> Call:
    return Call(f"{function}(file, NULL)", lambda kernel: seq_file_text(kernel, function))


def _number(text: str, function: str, *arguments: int | bytes) -> Call:
    return Call(text, lambda kernel: str(kernel.call(f"{TARGET_NAME}:{function}", *arguments).int32))


VERSION_CALLS = (_show("version_proc_show"),)
TARGET_CALLS = (
    _number("rise()", "rise"),
    _number("fall()", "fall"),
    _number("weigh(4, 12)", "weigh", 4, 12),
    _number('run("\\1\\2\\2\\3", 12)', "run", b"\1\2\2\3\0", 12),
    _number("peek((void *)-4096)", "peek", -4096 & (1 << 64) - 1),
    _show(f"{TARGET_NAME}:show"),
)


def walk(
    simulated: SimulatedKernel, livepatch: Path | bytes, calls: Sequence[Call], modules: Sequence[Path] = ()
) -> dict[str, Mapping[str, str]]:
    """Call -> phase -> answer. All that was loaded is out again at the end, and every byte of code as before."""
    for path in modules:
        load_module(simulated, path)
    answers: dict[str, dict[str, str]] = {call.text: {} for call in calls}

    def ask(phase: str) -> None:
        for call in calls:
            answers[call.text][phase] = call.make(simulated)

    ask(PHASES[0])
    module = load_module(simulated, livepatch)
    run_init(simulated, module)
    ask(PHASES[1])
    disable_patch(simulated, module.name)
    ask(PHASES[2])
    unload_module(simulated, module.name)
    for path in reversed(modules):
        unload_module(simulated, ModuleFile.read(path).name)
    return dict(answers)

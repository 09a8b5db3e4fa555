"""Both versions of a function, executed on inputs that they treat alike: mapped instructions run equally often."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.binary import Address, read_object
from builder.binary.manifest import SECTION
from builder.compose.owner import Objects
from builder.image.derive import derive_state
from builder.image.simulated import SimulatedKernel
from builder.load.boot import boot
from builder.load.livepatch import disable_patch, run_init
from builder.load.loader import load_module, unload_module
from builder.pipeline import ModulePlan, build, diff
from samples.objects import TARGET_NAME, target_objects, vmlinux_objects
from samples.simulated import seq_file
from tests.operate.versions import NAME, Probed
from tests.samples.test_patched import build_target
from tests.support.kernels import opened

pytestmark = pytest.mark.kernel
Work = Callable[[SimulatedKernel], object]
HERE = -4096 & (1 << 64) - 1


def counted(
    simulated: SimulatedKernel, ranges: Mapping[str, tuple[Address, Address]], work: Work
) -> dict[str, Counter[int]]:
    """How often each offset of the functions at `ranges` is executed."""
    found: dict[str, Counter[int]] = {name: Counter() for name in ranges}
    simulated.execution.reset()
    machine = simulated.execution.machine()
    for name, (start, end) in ranges.items():

        def note(address: Address, _size: int, name: str = name, start: Address = start) -> None:
            found[name][address - start] += 1

        machine.trace(note, start, end)
    work(simulated)
    simulated.execution.reset()
    return found


def ranges_of(simulated: SimulatedKernel, module: str, names: Iterable[str]) -> dict[str, tuple[Address, Address]]:
    out = {}
    for name in names:
        start = simulated.symbols.find_function(f"{module}:{name}" if module != "vmlinux" else name)
        out[name] = (start, start + simulated.symbols.function_size(start))
    return out


def compared(simulated: SimulatedKernel, livepatch: bytes, owner: str, work: Work) -> tuple[int, int, list[str]]:
    """Pairs of instructions that are mapped, those of them that were executed, and those whose counts differ."""
    manifest = json.loads(read_object(livepatch, name="livepatch").by_name[SECTION].data)
    rows = [row for row in manifest["functions"] if "map" in row]
    parts = [part for row in rows for part in row.get("parts", ())]
    maps: list[tuple[str, str, Sequence[Any]]] = []
    for kind in ("map", "points"):
        maps += [(row["old_name"], row["symbol"], row.get(kind, ())) for row in rows]
        maps += [(part["name"], part["name"], part.get(kind, ())) for part in parts]
    olds = counted(simulated, ranges_of(simulated, owner, {old for old, _, _ in maps}), work)
    module = load_module(simulated, livepatch)
    run_init(simulated, module)
    names = {cells[4] if len(cells) > 4 else new for _, new, table in maps for cells in table}
    news = counted(simulated, ranges_of(simulated, module.name, names), work)
    disable_patch(simulated, module.name)
    unload_module(simulated, module.name)
    pairs, executed, wrong = 0, 0, []
    for old, new, table in maps:
        places: dict[int, list[tuple[str, int]]] = {}
        for old_offset, new_offset, _, _, *part in table:
            places.setdefault(old_offset, []).append((part[0] if part else new, new_offset))
        for old_offset, copies in places.items():
            if not old_offset:
                continue  # the ftrace location belongs to every version
            pairs += 1
            was, now = olds[old][old_offset], sum(news[name][offset] for name, offset in copies)
            executed += bool(was)
            if was != now:
                wrong.append(f"{old}+{old_offset:#x} {was} times, {copies} {now} times")
    return pairs, executed, wrong


def call_all(*calls: tuple[str, tuple[int | bytes, ...]]) -> Work:
    def work(simulated: SimulatedKernel) -> None:
        for name, arguments in calls:
            simulated.call(name, *arguments)

    return work


def test_a_function_and_its_cold_part(made: Probed) -> None:
    simulated = boot(made.kernel, derive_state(made.kernel, "max"))
    load_module(simulated, made.module)
    work = call_all(*[(f"{NAME}:outer", (kind, x)) for kind in (0, 1, 3, 7, 3) for x in (0, 5, 1000)])
    for old, new in ((0, 1), (0, 2)):
        pairs, executed, wrong = compared(simulated, made.build(old, new, f"p{new}"), NAME, work)
        assert wrong == []
        assert executed > 20 and pairs >= executed


def test_the_sample_module(release_61: str, tmp_path: Path) -> None:
    objects, kernel = target_objects(release_61), opened(release_61)
    simulated = boot(kernel, derive_state(kernel, "max"))
    load_module(simulated, objects.module)
    built = build_target(objects, tmp_path / "fix.ko")
    there = simulated.execution.heap.put(bytes(8))
    work = call_all(
        *[(f"{TARGET_NAME}:weigh", (kind, x)) for kind in (0, 1, 2, 3, 5, 6, 7, 99) for x in (3, 1000)],
        *[(f"{TARGET_NAME}:run", (program, 5)) for program in (b"\0", b"\2\2\0", b"\3\2\3\0", b"\1\1\2\0")],
        *[(f"{TARGET_NAME}:{name}", ()) for name in ("rise", "fall", "rise", "voice")],
        (f"{TARGET_NAME}:peek", (there,)),
        (f"{TARGET_NAME}:peek", (HERE,)),
    )
    pairs, executed, wrong = compared(simulated, built.module.read_bytes(), TARGET_NAME, work)
    assert wrong == []
    assert executed > 60 and pairs >= executed


def test_the_kernel_itself(release_61: str) -> None:
    pair, kernel = vmlinux_objects(release_61), opened(release_61)
    simulated = boot(kernel, derive_state(kernel, "max"))
    module = build([diff(pair.old, pair.new)], Objects(kernel), ModulePlan("version"))
    assert module is not None
    file, _ = seq_file(simulated)
    work = call_all(("version_proc_show", (file, 0)))
    pairs, executed, wrong = compared(simulated, module.content, "vmlinux", work)
    assert wrong == [] and pairs == executed >= 8

"""A kernel that was moved: everything of it is where it then is, and its code runs there."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.errors import KernelError
from builder.image.derive import derive_state
from builder.load import livepatch
from builder.load.boot import boot
from builder.load.loader import load_module, unload_module
from tests.guest.conftest import compiled
from tests.support.kernels import differences, opened, snapshot

pytestmark = pytest.mark.kernel
OFFSET = 0x1E00000
TEXT = b"The quick brown fox"


@pytest.fixture
def kernel(release: str) -> Kernel:
    return opened(release)


@pytest.fixture
def patches(release: str) -> Mapping[str, Path]:
    return compiled(release)


def test_addresses_are_moved_and_per_cpu_offsets_are_not(kernel: Kernel) -> None:
    moved = kernel.at(OFFSET)
    for name in ("_text", "crc32_le", "init_task"):
        assert moved.symbol(name).address == kernel.symbol(name).address + OFFSET
    export, linked = moved.export("kfree"), kernel.export("kfree")
    assert export is not None and linked is not None
    assert (export.address, export.crc) == (linked.address + OFFSET, linked.crc)
    assert moved.exports()["kfree"] == export
    assert moved.symbol("__per_cpu_start").address == kernel.symbol("__per_cpu_start").address
    assert moved.layout("module") == kernel.layout("module")
    linked_at = [segment.address for segment in kernel.segments if segment.address]
    assert [segment.address for segment in moved.segments if segment.address] == [at + OFFSET for at in linked_at]
    # A pointer in the data, to the data.
    at = kernel.symbol("init_task").address + kernel.layout("task_struct").offset_of("tasks")
    linked_pointer = int.from_bytes(kernel.read(at, 8), "little")
    assert linked_pointer >> 63
    assert int.from_bytes(moved.read(at + OFFSET, 8), "little") == linked_pointer + OFFSET


@pytest.mark.parametrize("offset", [-0x200000, 0x1000, 0x40000000, 0x200001])
def test_an_offset_that_no_boot_gives_is_refused(kernel: Kernel, offset: int) -> None:
    with pytest.raises(KernelError, match="no KASLR offset"):
        kernel.at(offset)


def test_it_is_moved_once(kernel: Kernel) -> None:
    assert kernel.at(0).symbol("_text") == kernel.symbol("_text")
    with pytest.raises(KernelError, match="already"):
        kernel.at(OFFSET).at(OFFSET)


def test_code_runs_and_a_livepatch_is_loaded_where_the_kernel_was_moved(
    kernel: Kernel, patches: Mapping[str, Path]
) -> None:
    moved = kernel.at(OFFSET)
    simulated = boot(moved, derive_state(moved, "max"))
    assert simulated.call("crc32_le", 0xFFFFFFFF, TEXT, len(TEXT)).value == zlib.crc32(TEXT) ^ 0xFFFFFFFF
    simulated.execution.heap.clear()
    before = snapshot(simulated)
    module = load_module(simulated, patches["guest_patch_vmlinux"])
    patch = livepatch.run_init(simulated, module)
    assert patch.objects[0].functions[0].old == kernel.symbol("cmdline_proc_show").address + OFFSET
    livepatch.disable_patch(simulated, module.name)
    unload_module(simulated, module.name)
    assert differences(before, snapshot(simulated)) == []

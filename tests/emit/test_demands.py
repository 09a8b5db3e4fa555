"""The table of what stock kernels demand: the emitted module, broken in one place, and the kernel's answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from builder.binary import read_object, write_object
from builder.errors import GuestError
from builder.image.guest import Guest, MachineConfig, taints
from samples.objects import TARGET_NAME
from tests.emit.conftest import Emitted
from tests.emit.demands import ROWS, Answer, Row

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]

USE = f"echo s > /proc/{TARGET_NAME}; cat /proc/{TARGET_NAME}"


@contextmanager
def machine(emitted: Emitted, cpu: str = "max") -> Iterator[Guest]:
    with Guest(emitted.kernel, MachineConfig(cpu=cpu), modules={TARGET_NAME: emitted.target.module}) as guest:
        guest.modprobe(TARGET_NAME)
        yield guest


@pytest.fixture(scope="module")
def shared(emitted: Emitted) -> Iterator[Guest]:
    """For what leaves no trace."""
    with machine(emitted) as guest:
        yield guest


def broken(emitted: Emitted, row: Row) -> bytes:
    content = write_object(row.breaks(emitted.model, emitted.kernel))
    assert (content == emitted.module.content) == (row.name == "nothing"), "nothing was broken"
    return content


def check(guest: Guest, content: bytes, answer: Answer) -> None:
    mark, usual = guest.mark(), guest.tainted()
    said = guest.insmod(content, "demand")
    if answer.refused:
        assert not said.ok and answer.refused in said.output, said
        assert answer.log in str(guest.log().since(mark))
        assert "demand" not in guest.loaded()
        return
    assert said.ok, f"{said.output}\n{guest.log().since(mark)}"
    if answer.oops:
        with pytest.raises(GuestError, match=answer.oops):
            guest.wait_transition("demand")
            guest.run(USE)
            guest.disable_livepatch("demand")
            guest.check("rmmod demand")
        assert answer.oops in guest.console()
        return
    guest.wait_transition("demand")
    assert "version   new" in guest.check(USE)
    guest.disable_livepatch("demand")
    assert guest.rmmod("demand").ok
    assert "version   old" in guest.check(USE)
    warnings = guest.warnings(mark)
    if answer.warns:
        assert any(answer.warns in text for text in warnings), warnings
    else:
        assert warnings == () and answer.log in str(guest.log().since(mark))
        odd = set(taints(guest.tainted() & ~usual)) - set("OEK")
        assert odd == ({answer.taint} if answer.taint else set())


@pytest.mark.parametrize("row", [row for row in ROWS if not row.apart], ids=lambda row: row.name)
def test_what_a_kernel_answers(emitted: Emitted, shared: Guest, row: Row) -> None:
    check(shared, broken(emitted, row), row.answers[emitted.series])


#: where all series answer alike, the others are left to the long tests
APART = [
    pytest.param(
        row, id=row.name, marks=[pytest.mark.long_for(release="6.12")] * (row.answers["6.1"] == row.answers["6.12"])
    )
    for row in ROWS
    if row.apart
]


@pytest.mark.parametrize("row", APART)
def test_what_a_kernel_takes_badly(emitted: Emitted, row: Row) -> None:
    with machine(emitted, row.cpu) as guest:
        check(guest, broken(emitted, row), row.answers[emitted.series])


def test_what_is_demanded_is_there(emitted: Emitted) -> None:
    """The same demands, seen in the module that was emitted."""
    obj = read_object(emitted.module.content)
    info = obj.by_name[".modinfo"].data.decode().split("\0")
    assert {"license=GPL", "livepatch=Y", "name=demand", f"vermagic={emitted.kernel.vermagic}"} <= set(info)
    assert obj.by_name[".gnu.linkonce.this_module"].size == emitted.kernel.layout("module").size
    rows = obj.by_name["__versions"].data
    listed = {rows[k + 8 : k + 64].rstrip(b"\0").decode(): rows[k : k + 8] for k in range(0, len(rows), 64)}
    used = {s.name for s in obj.symbols if s.is_undefined}
    assert set(listed) == used | {"module_layout"}
    for name, crc in listed.items():
        exported = emitted.kernel.export(name)
        assert exported is not None and exported.crc == int.from_bytes(crc, "little")

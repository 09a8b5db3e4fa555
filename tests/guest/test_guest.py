"""What a running guest can be asked to do, on each kernel."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.errors import GuestError, InputError
from builder.image.guest import Guest, taints
from builder.image.guest.channel import DATA_SIZE, OUTPUT_SIZE

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]


def test_a_command_answers_with_status_and_all_it_said(guest: Guest, kernel: Kernel) -> None:
    answer = guest.run("uname -r; echo complaint >&2; exit 3")
    assert (answer.status, answer.output) == (3, f"{kernel.release}\ncomplaint\n")
    assert not answer.ok and answer.seconds > 0


def test_a_command_has_nothing_to_read_and_may_be_long(guest: Guest) -> None:
    assert guest.run("cat").output == ""
    script = "\n".join(f"echo {number}" for number in range(20_000))
    assert guest.run(script).output.split() == [str(number) for number in range(20_000)]


def test_the_names_that_no_module_can_have_are_told_by_the_image(guest: Guest, kernel: Kernel) -> None:
    """Of drivers without parameters, which newer kernels list too, nothing else stands there."""
    listed = "cd /sys/module && for name in *; do [ -d $name/drivers ] && [ ! -d $name/parameters ] || echo $name; done"
    there = set(guest.check(f"{listed}").split()) - set(guest.loaded())
    assert {"module", "kernel", "printk"} <= there <= kernel.builtin_names


def test_check_raises_with_what_was_said(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"status 1: cat /absent: .*No such file"):
        guest.check("cat /absent")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 65_537, DATA_SIZE, DATA_SIZE + 1])
def test_what_is_put_is_got(guest: Guest, size: int) -> None:
    data = os.urandom(size)
    guest.put("/tmp/it's a place/a file", data)
    assert guest.get("/tmp/it's a place/a file") == data


def test_part_of_a_file(guest: Guest) -> None:
    data = os.urandom(200_000)
    guest.put("/tmp/part", data)
    assert guest.get("/tmp/part", offset=12_345, length=100_001) == data[12_345:112_346]
    assert guest.get("/tmp/part", offset=199_999, length=50) == data[-1:]
    with pytest.raises(GuestError, match="No such file"):
        guest.get("/tmp/absent")


def test_too_much_output_is_refused_and_can_be_got_as_a_file(guest: Guest) -> None:
    size = OUTPUT_SIZE + 1
    with pytest.raises(GuestError, match=f"output of {size} bytes"):
        guest.run(f"head -c {size} /dev/zero")
    guest.check(f"head -c {size} /dev/zero > /tmp/zeros")
    assert guest.get("/tmp/zeros") == bytes(size)
    guest.check("rm /tmp/zeros")


def test_kernel_memory_holds_what_the_image_says(guest: Guest, kernel: Kernel) -> None:
    """By /proc/kcore, without KASLR, at the address that the image's own tables give."""
    head = guest.get("/proc/kcore", length=4096)
    count = struct.unpack_from("<H", head, 56)[0]
    rows = (struct.unpack_from("<IIQQQQQQ", head, 64 + 56 * index) for index in range(count))
    address = kernel.symbol("linux_banner").address
    place = next(row[2] + address - row[3] for row in rows if row[3] <= address < row[3] + row[5])
    assert guest.get("/proc/kcore", offset=place, length=14) == b"Linux version "


def test_a_hanging_command_is_ended_with_its_children(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"not done within 1 s: sleep 77"):
        guest.run("sleep 77 & sleep 77", timeout=1)
    assert "sleep 77" not in guest.run("ps").output
    assert guest.run("echo still here").output == "still here\n"


def test_output_of_what_was_left_running_reaches_no_later_answer(guest: Guest) -> None:
    guest.run("while :; do echo noise; usleep 1000; done & echo $! > /tmp/noisy")
    assert [guest.run("usleep 50000; echo quiet").output for _ in range(3)] == ["quiet\n"] * 3
    guest.check("kill $(cat /tmp/noisy)")


def test_no_request_is_lost_while_orphans_end(guest: Guest) -> None:
    """Each one signals PID 1, which reads the requests."""
    guest.run("while :; do (usleep 1000 &); done > /dev/null 2>&1 & echo $! > /tmp/storm")
    assert [guest.run(f"echo {n}", timeout=20).output for n in range(60)] == [f"{n}\n" for n in range(60)]
    guest.check("kill $(cat /tmp/storm)")


def test_modules_come_with_what_they_need(guest: Guest) -> None:
    loaded = guest.modprobe("btrfs")
    assert loaded[-1] == "btrfs" and "xor" in loaded
    assert set(loaded) <= set(guest.loaded())
    assert "btrfs" in guest.check("cat /proc/filesystems")
    assert guest.modprobe("btrfs") == ()
    assert guest.rmmod("btrfs").ok and "btrfs" not in guest.loaded()


def test_what_the_kernel_asks_for_meanwhile_is_loaded_too(guest: Guest) -> None:
    """rxrpc needs pcbc(fcrypt), which nothing but its own request_module() says."""
    assert guest.modprobe("rxrpc")[-1] == "rxrpc"
    assert {"rxrpc", "pcbc", "fcrypt"} <= set(guest.loaded())


def test_many_at_once_and_what_is_refused(guest: Guest) -> None:
    order = guest.tree.closure(["nls_utf8", "9pnet_xen", "nls_cp437"], guest.loaded())
    refused = guest.load(order)
    assert refused.keys() == {"9pnet_xen"} and refused["9pnet_xen"] == "No such device"
    assert {"nls_utf8", "nls_cp437"} <= set(guest.loaded())
    assert guest.load([]) == {}


def test_parameters_reach_the_module_that_was_named(guest: Guest) -> None:
    guest.modprobe("dummy", params="numdummies=3")
    assert guest.check("ls -d /sys/class/net/dummy* | wc -l") == "3\n"


def test_a_module_that_is_built_in_needs_no_loading(guest: Guest) -> None:
    assert guest.modprobe("mq-deadline") == ()


def test_an_unknown_module_is_named(guest: Guest) -> None:
    with pytest.raises(InputError, match="no_such_module"):
        guest.modprobe("no_such_module")


def test_the_kernel_says_no_to_what_is_no_module(guest: Guest) -> None:
    answer = guest.insmod(b"not a module", "junk")
    assert not answer.ok and "invalid module format" in answer.output
    assert not guest.rmmod("junk").ok


def test_a_livepatch_from_load_to_removal(guest: Guest, built: Mapping[str, Path]) -> None:
    mark = guest.mark()
    assert guest.livepatch_state("guest_patch") is None
    assert guest.insmod(built["guest_target"]).ok
    assert guest.run("cat /sys/module/guest_target/parameters/value").output == "original 1\n"
    assert guest.insmod(built["guest_patch"], "guest_patch").ok
    assert guest.wait_transition("guest_patch", 30) < 30
    state = guest.livepatch_state("guest_patch")
    assert state is not None and state.enabled and not state.transition
    assert guest.livepatch_objects("guest_patch").keys() == {"guest_target"}
    assert guest.livepatch_objects("guest_patch")["guest_target"] is not False
    assert guest.run("cat /sys/module/guest_target/parameters/value").output == "patched\n"
    assert not guest.rmmod("guest_patch").ok
    guest.disable_livepatch("guest_patch", 30)
    assert guest.rmmod("guest_patch").ok
    assert guest.run("cat /sys/module/guest_target/parameters/value").output == "original 2\n"
    assert guest.warnings(mark) == ()
    assert set(taints(guest.tainted())) == {"O", "E", "K"}
    guest.check("echo w > /sys/module/guest_target/parameters/value")
    (warning,) = guest.warnings(mark)
    assert re.search(r"WARNING: CPU: 0 PID: \d+ at .*target_set", warning)
    assert guest.warnings(guest.mark()) == ()
    assert guest.rmmod("guest_target").ok


def test_the_log_begins_at_boot(guest: Guest, kernel: Kernel) -> None:
    assert f"Linux version {kernel.release}" in guest.dmesg()
    assert f"Linux version {kernel.release}" in guest.console()

"""`bespoke watch` and `status` on a kernel that runs marks: the host's Python, run in a guest."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from builder.acquire.sources import find_source
from builder.binary.kernel import Kernel
from builder.image.guest import Guest, MachineConfig, Share
from builder.image.marks import TRACEFS
from builder.pipeline import source_target
from tests.conftest import ROOT, needed
from tests.guest.marks import build
from tests.operate.chroot import MOUNTS, PLACE, python
from tests.support.kernels import opened

pytestmark = [pytest.mark.guest, pytest.mark.kernel, pytest.mark.slow]


@pytest.fixture(scope="module")
def kernel(release_61: str) -> Kernel:
    return opened(release_61)


def test_watch_shows_records_and_leaves_everything_as_it_was(kernel: Kernel) -> None:
    with needed("no source"):
        built = build(kernel, ["return"], "watched")
    assert built.patched.module is not None
    with Guest(kernel, MachineConfig(memory_mb=2048), shares=[Share(Path("/"), PLACE)]) as guest:
        guest.check(MOUNTS)
        start = guest.mark()
        assert guest.insmod(built.patched.module.content, "watched").ok
        guest.wait_transition("watched")
        guest.check("(while sleep 1; do cat /proc/version/none; done) >/tmp/noise 2>&1 & echo $! > /tmp/noisy")
        answer = python(
            guest,
            "-m",
            "builder",
            "watch",
            "watched",
            "--records",
            "2",
            "--for",
            "60",
            "--json",
            "--filter",
            "retval == -20",
        )
        *records, last = [json.loads(line) for line in answer.output.splitlines()]
        fields = {"filename": "/proc/version/none", "retval": -20}
        assert (
            answer.ok and [(r["mark"], r["comm"], r["fields"]) for r in records] == [("return_mark", "cat", fields)] * 2
        )
        assert last["lost"] == 0 and last["totals"][0]["hits"] >= 2
        shown = json.loads(python(guest, "-m", "builder", "status", "--json").output)["patches"][0]
        assert [(m["mark"], m["on"]) for m in shown["marks"]] == [("return_mark", False)]
        assert guest.check(f"ls {TRACEFS}/instances") == ""
        # Ctrl-C and SIGTERM, while records come.
        for sign in ("INT", "TERM"):
            answer = guest.run(_interrupted(sign), timeout=300)
            assert answer.ok, answer.output
            *records, last = [json.loads(line) for line in answer.output.splitlines()]
            assert records and not last["totals"][0]["on"] and guest.check(f"ls {TRACEFS}/instances") == ""
        guest.check("kill $(cat /tmp/noisy)")
        # One that somebody has left on is switched off, and its module goes all the same.
        guest.check(f"echo 1 > {TRACEFS}/events/watched/enable")
        guest.disable_livepatch("watched")
        guest.check("rmmod watched")
        assert "watched" not in guest.check(f"ls {TRACEFS}/events; ls {TRACEFS}")
        assert guest.warnings(start) == ()


MARKS = """
[[mark]]
place = "write_null"
hist = "count"
if = "count == 1000"
as = "writes"

[[mark]]
place = "do_sys_openat2%return"
words = ["opens %s: %ld", "filename", "$retval"]
if = "$retval == -ENOTDIR"
"""


@pytest.mark.long
def test_marks_of_a_file_are_drawn_while_they_count_and_all_go_at_once(kernel: Kernel, tmp_path: Path) -> None:
    """Two modules, one on the other, made, loaded, watched on a terminal and unloaded by commands."""
    with needed("no source"):
        find_source(None, source_target(kernel))
    (tmp_path / "marks.toml").write_text(MARKS)
    first, second = tmp_path / "filed.ko", tmp_path / "standing.ko"
    for words in (
        ("--file", tmp_path / "marks.toml", "-o", first),
        ("vfs_write%return", "$retval", "--if", "count == 1000", "--on", first, "-o", second),
    ):
        command = [sys.executable, "-m", "builder", "mark", *map(str, words), "--kernel", kernel.release]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with Guest(kernel, MachineConfig(memory_mb=2048), shares=[Share(Path("/"), PLACE)]) as guest:
        guest.check(MOUNTS)
        start = guest.mark()
        for path in (first, second):
            guest.put(f"{PLACE}/run/{path.name}", path.read_bytes())
            assert python(guest, "-m", "builder", "load", f"/run/{path.name}").ok
        noise = "dd if=/dev/zero of=/dev/null bs=1000 count=8; cat /proc/version/none"
        guest.check(f"(while sleep 1; do {noise}; done) >/tmp/noise 2>&1 & echo $! > /tmp/noisy")
        watch = shlex.join([sys.executable, "-m", "builder", "watch", "--for", "8"])
        script = f"cd {ROOT} && env PYTHONDONTWRITEBYTECODE=1 FORCE_COLOR=1 TERM=xterm COLUMNS=120 {watch}"
        answer = guest.run(f"chroot {PLACE} /bin/sh -c {shlex.quote(script)}", timeout=200)
        assert answer.ok, answer.output
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", answer.output)
        bars = re.findall(r"512\.\.1023 +(\d+) \|@{40}\|", shown)
        # Drawn again as it grows, beside the records; at the end once more.
        assert len(set(bars)) >= 2 and list(map(int, bars)) == sorted(map(int, bars))
        assert "filename='/proc/version/none' retval=-20" in shown and "vfs_write_return  retval=1000" in shown
        guest.check("kill $(cat /tmp/noisy)")
        gone = json.loads(python(guest, "-m", "builder", "unload", "--all", "--json").output)["unloaded"]
        assert [row["module"] for row in gone] == ["standing", "filed"]
        left = guest.check(
            f"ls {TRACEFS} {TRACEFS}/events {TRACEFS}/instances /sys/kernel/livepatch; cat /proc/modules"
        )
        assert "filed" not in left and "standing" not in left and "bespoke-" not in left
        assert guest.warnings(start) == ()


def _interrupted(sign: str) -> str:
    """A script that watches until the first record is there, then sends `sign`; its status and output are watch's.

    A guest's commands ignore SIGINT as all do that a shell runs in the background, hence `env`.
    """
    words = f"env --default-signal=INT {sys.executable} -m builder watch watched --json"
    waiting = f"until [ -s /run/records ]; do sleep 0.1; done; kill -{sign} $!; wait $!; status=$?"
    script = (
        f"cd {ROOT} && export PYTHONDONTWRITEBYTECODE=1 HOME=/run BESPOKE_CACHE=/run/cache && rm -f /run/records && "
        f"{{ {words} > /run/records & {waiting}; cat /run/records; exit $status; }}"
    )
    return f"chroot {PLACE} /bin/sh -c {shlex.quote(script)}"

"""`bespoke watch` and `status` on a kernel that runs marks: the host's Python, run in a guest."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.image.guest import Guest, MachineConfig, Share
from builder.image.marks import TRACEFS
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

"""Run inside a guest, by the host's Python: load and unload killed by SIGKILL before a step, then repaired.

    python -m tests.operate.inside MODULE.ko STRIDE

With STRIDE 1 before each step of a load and every other of an unload, with 4 before every fourth of these: a guest
takes seconds for each, and the simulated kernel is killed at all of them.
One line of JSON for each killing: what was killed, before which step, and the
hits of each event by the calls made after the repair.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from builder.image.machine import TRACING, ThisMachine
from builder.operate.live import Live
from builder.operate.survey import survey
from tests.operate.killed import KillingHost
from tests.operate.scene import COUNTED, facts, histogram
from tests.operate.versions import NAME

MOST = 60
PROC = Path(f"/proc/{NAME}")


def killed(work: Callable[[Live], object], at: int) -> bool:
    """Whether `work` in a process of its own was killed before step `at`."""
    child = os.fork()
    if not child:
        work(Live(KillingHost(ThisMachine(), at, lambda: os.kill(os.getpid(), signal.SIGKILL))))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"step {at} failed"
    return False


def hits() -> dict[str, int]:
    return {event: histogram(Path(f"{TRACING}/events/b/{event}/hist").read_text()) for event in COUNTED}


def counted() -> dict[str, int]:
    """Hits of each event by two calls, one of them of kind 3."""
    before = hits()
    for line in ("1 1", "3 1"):
        PROC.write_text(line)
    after = hits()
    return {event: after[event] - before[event] for event in after}


def say(what: str, at: int) -> None:
    status = survey(ThisMachine())
    patches = [patch.module for patch in status.patches]
    row = {"killed": what, "step": at, "counted": counted(), "interrupted": status.interrupted, "patches": patches}
    print(json.dumps(row), flush=True)


def main(module: Path, stride: int) -> None:
    content = module.read_bytes()
    host = ThisMachine()
    for at in range(1, MOST, stride):
        if not killed(lambda live: live.load(content, str(module)), at):
            break
        Live(host).repair()
        say("load", at)
        if survey(host).patches:
            Live(host).unload("p1")
    for at in range(1, MOST, 2 * stride):
        if not survey(host).patches:
            Live(host).load(content, str(module))
        if not killed(lambda live: live.unload("p1"), at):
            break
        Live(host).repair()
        say("unload", at)
    say("nothing", 0)
    print(json.dumps({"facts": dict(facts(PROC.read_text()))}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

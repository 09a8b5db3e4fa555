"""What the commands say while they work, and that each document that they print is JSON by itself."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from builder.binary import Address
from builder.cli.common import Output
from builder.cli.progress import logged, shown
from builder.image.guest import Answer
from builder.image.trial import CommandRun, Step, TrialReport
from builder.load.accept import Finding
from builder.operate.kprobes.plan import Report
from builder.operate.live import OperationOutcome
from builder.operate.planting import Planting
from builder.operate.survey import EventStatus, FunctionStatus, PatchStatus, Status
from builder.operate.trail import Moved
from builder.preflight.check import CheckReport, CpuCheck
from builder.preflight.differences import ByteDifference, Compared
from builder.preflight.fidelity import Fidelity, Prediction
from builder.report.spelled import Screen, one_line
from builder.report.trial import render_trial


def console(terminal: bool) -> tuple[Screen, io.StringIO]:
    text = io.StringIO()
    return Screen(file=text, force_terminal=terminal, width=80), text


def test_progress_shows_on_a_terminal_and_leaves_its_lines_only() -> None:
    screen, text = console(terminal=True)
    with shown(screen) as progress:
        progress.count(1, 2, "compile [old] fs/x.o")
        progress.step("boot [red]")
        time.sleep(0.2)
        progress.line(one_line("booted"))
    assert "boot [red]" in text.getvalue() and "booted\n" in text.getvalue()
    with shown(None) as progress:
        progress.count(1, 2, "x")
        progress.step("x")
        progress.line(one_line("x"))


@pytest.mark.parametrize(
    ("terminal", "quiet", "seen"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_who_sees_progress(monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool, seen: bool) -> None:
    screen, text = console(terminal)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # as rich is told of a terminal that it cannot see
    output = Output(quiet=quiet)
    monkeypatch.setitem(output.__dict__, "err", screen)
    with output.progress() as progress:
        progress.step("working")
        progress.line(one_line("done"))
        time.sleep(0.2)
    assert (("working" in text.getvalue()), ("done" in text.getvalue())) == (seen, seen)


@pytest.mark.parametrize(
    ("terminal", "verbose", "quiet", "lines"),
    [
        (False, False, False, ["bespoke: long"]),
        (False, True, False, ["short", "long"]),
        (True, False, False, ["short", "long"]),
        (True, True, True, []),
    ],
)
def test_what_is_said_of_the_log(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, verbose: bool, quiet: bool, lines: list[str]
) -> None:
    screen, text = console(terminal)
    monkeypatch.setattr(sys, "stderr", text)
    log = logging.getLogger("bespoke.test")
    with logged(lambda: screen, steps=verbose or terminal, quiet=quiet):
        log.info("short")
        log.warning("long")
    said = [line if line.startswith("bespoke") else line.partition("] ")[2] for line in text.getvalue().splitlines()]
    assert said == lines
    assert not logging.getLogger("bespoke").handlers and not log.isEnabledFor(logging.INFO)


def test_a_step_that_goes_on_is_told_of_off_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the first run of a CI fetches and prepares a source: it would say nothing for minutes."""
    monkeypatch.setattr("builder.cli.progress.PATIENCE", 0.1)
    screen, text = console(False)
    log = logging.getLogger("bespoke.test")
    with logged(lambda: screen, steps=False, quiet=False):
        log.info("a moment")
        log.info("preparing the source")
        time.sleep(0.4)
        log.info("the last moment")
    time.sleep(0.2)
    assert text.getvalue().splitlines() == ["bespoke: preparing the source"]


def made_trial() -> TrialReport:
    return TrialReport(
        module="m",
        kernel="6.1",
        cpu="max",
        kaslr=False,
        objects=("vmlinux",),
        untried=(),
        steps=(Step("boot", True, 1.0),),
        commands=(CommandRun("true", {"before": Answer(0, "output", 0.5)}),),
        warnings=("warned",),
        taint=1,
        failure=None,
        seconds=2.0,
    )


def test_a_pipe_has_no_padding(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a trial that failed, for that has all: a log, a command's output in a table."""
    runs = (CommandRun("cat x", {"before": Answer(0, "one\ntwo \n", 0.5), "with": Answer(3, "", 0.5)}),)
    report = replace(made_trial(), commands=runs, failure="with: cat x: gone", dmesg="[ 1.0] first\n[ 2.0] last line")
    Output().out.print(render_trial(report, steps=True))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines] and "  [ 1.0] first" in lines
    assert max(map(len, lines)) < 80


REPORT = Report("code", "event", "place", "message")


def documents() -> dict[str, Any]:
    """What each command prints; of values made by hand where the real ones take a guest or a running kernel."""
    cpu = CpuCheck("max", MappingProxyType({"alternatives": 3}))
    check = CheckReport(
        module="m",
        kernel="6.1",
        refusals=(Finding("elf", "message", 8),),
        problems=(),
        taints=("O",),
        relocations=MappingProxyType({".text": 1}),
        bindings=(MappingProxyType({"symbol": "s"}),),
        replaced=(MappingProxyType({"name": "f"}),),
        cpus=(cpu,),
    )
    difference = ByteDifference("m", ".text", Address(0xFFFFFFFF81000000), b"\x90", b"\xcc", "f", "static key")
    prediction = Prediction((Compared(16, 16, (difference,)),), MappingProxyType({}))
    fidelity = Fidelity("6.1", "max", 1, "captured", prediction, (), MappingProxyType({}), 1.0, 2.0)
    patched = PatchStatus(
        "m", "enabled", None, (FunctionStatus("vmlinux", "f", 0, True),), ({"line": "p:x"},), (REPORT.as_json(),)
    )
    status = Status("6.1", (patched,), ("task",), (EventStatus("x", True, ("f+0",)),), None)
    return {
        "try": made_trial().as_json(),
        "check": check.as_json(),
        "fidelity": fidelity.as_json(),
        "status": status.as_json(),
        "load": OperationOutcome("m", 0.1234, (Moved("p:x f", "f+0", 90),), (REPORT,)).as_json(),
        "probe": Planting("x", ("f+0",), (REPORT,)).as_json(),
    }


@pytest.mark.parametrize("command", ["try", "check", "fidelity", "status", "load", "probe"])
def test_every_document_is_json_by_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Those of `diff`, `build` and `patch` are read in the tests of these commands."""
    document = documents()[command]
    Output(json=True).document(document)
    said = json.loads(capsys.readouterr().out)
    assert said.keys() == document.keys() and said


def test_what_is_not_json_is_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    """A path or a set would be printed as Python spells it, and nobody would notice."""
    for value in (Path("x"), {1}, b"x"):
        with pytest.raises(TypeError, match="not JSON serializable"):
            Output(json=True).document({"value": value})
    assert capsys.readouterr().out == ""

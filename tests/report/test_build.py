"""The text of a build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from builder.binary.manifest import Manifest
from builder.errors import Refusal
from builder.report.build import render_build
from tests.binary.test_manifest import WHOLE

TOLD = Refusal("struct-layout", "struct item", "", "the layout of struct item changed", "keep new fields apart", False)
LATE = Refusal("entry-dropped", "step", "__jump_table", "the tracepoint stays off", "use another one", False)


def text(manifest: Manifest, *warnings: Refusal) -> str:
    console = Console(width=200)
    rows = [w.as_json() for w in warnings]
    document = {"reasons": {}, "warnings": rows, "data": {"new": ["fresh.3"], "changed": []}}
    with console.capture() as shown:
        console.print(render_build(manifest, [document], Path("fix.ko"), False, "bespoke try fix.ko"))
    return shown.get()


def test_what_only_the_kernel_tells_is_shown_with_what_the_objects_tell() -> None:
    shown = text(replace(WHOLE, warnings=(TOLD, LATE)), TOLD)
    assert shown.count("the layout of struct item changed") == 1 and "keep new fields apart" in shown
    assert "warning: entry-dropped: the tracepoint stays off" in shown and "use another one" in shown


def test_what_starts_afresh_and_what_was_accepted_is_shown() -> None:
    shown = text(WHOLE)
    assert "starts with its initial value: fresh.3" in shown
    assert "accepted: exit-changed:leave: leave changed" in shown

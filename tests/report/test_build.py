"""The text of a build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from builder.binary.manifest import Manifest
from builder.cli import run
from builder.errors import Refusal
from builder.report.build import render_build
from samples.objects import TARGET_NAME, target_objects
from tests.binary.test_manifest import WHOLE
from tests.report.conftest import Page

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


@pytest.mark.kernel
def test_the_next_commands_of_a_page_are_complete(release_61: str, tmp_path: Path) -> None:
    """A module of one's own is found again only by its --object."""
    made = target_objects(release_61)
    named = f"{TARGET_NAME}={made.module}"
    words = ["build", made.old, made.new, "--kernel", release_61, "--object", named, "-o", tmp_path / "x.ko"]
    assert run([*map(str, words), "--html", str(tmp_path / "x.html"), "-q"]) == 0
    following = Page((tmp_path / "x.html").read_text()).text(cls="next")
    for command in ("check", "try"):
        assert f"bespoke {command} {tmp_path / 'x.ko'} --kernel {release_61} --object {named}" in following

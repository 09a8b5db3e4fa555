"""Help, completion and manual page, all of one parser; and documents that are compact."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.cli import COMMANDS, _parsed, _parser, full_parser, run
from builder.cli.common import compact
from builder.cli.completion_command import SHELLS
from builder.cli.examples import EXAMPLES
from builder.cli.patch_command import _row
from tests.support.compiling import TRACED, builder


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("kernels", "cache", "fleet")])
def test_each_command_s_help_has_examples_that_can_be_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for line, what in EXAMPLES[command]:
        assert line in shown and what in shown
        words = shlex.split(line.partition(" > ")[0])[1:]
        parser, chosen = _parser(words)
        assert chosen == command
        _parsed(parser, words)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    dashed = script.replace("-l ", "--")  # fish names a long option so
    assert all(word in dashed for word in ("fidelity", "--source-diff", "--sign-key", "--repair", "explain"))
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was not parsed")
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_bash_completes_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    script = f"""
    source {tmp_path}/script
    COMP_WORDS=(bespoke pac); COMP_CWORD=1
    $(complete -p bespoke | sed 's/.*-F \\([^ ]*\\).*/\\1/') bespoke pac bespoke
    echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["package"]


def test_the_whole_parser_has_all_commands() -> None:
    text = full_parser().format_help()
    assert all(name in text for name in COMMANDS)


def test_a_document_has_a_list_of_plain_values_in_a_line() -> None:
    value = {
        "map": [[0, 0, 100, 7], [5, 0, 60, 1, "x.cold"]],
        "names": ["a\0b", '"0"'],
        "none": [],
        "deep": [{"a": [1]}],
        "long": [[k, k] for k in range(100)],
        "rows": [{"name": "x", "size": 3}, {"name": "y" * 120, "size": 4}],
        "between": [["], ["], [1]],
        "empty": [[], [1, 2], []],
    }
    text = compact(value)
    assert json.loads(text) == value
    lines = text.splitlines()
    assert lines[2] == '  [0, 0, 100, 7], [5, 0, 60, 1, "x.cold"]'
    assert '  {"name": "x", "size": 3},' in lines and max(map(len, lines)) < 140 and len(lines) < 42
    assert '  ["], ["], [1]' in lines and "  [], [1, 2], []" in lines
    assert sum("[7, 7]" in line and "[8, 8]" in line for line in lines) == 1
    assert (
        compact({"x": [], "y": (1, True, None, 2.5), "z": {}})
        == '{\n "x": [],\n "y": [1, true, null, 2.5],\n "z": {}\n}'
    )


def test_a_function_side_by_side(gcc: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = builder(gcc, tmp_path, TRACED)
    source = "extern int sink(int, ...); int same(int x) { return x; } int work(int x) { return sink(x, 7) + 1; }"
    old, new = (build(text).name for text in (source, source.replace("7", "9")))
    assert run(["diff", old, new, "--function", "work"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("work: ") and re.search(r"^~ .*\$7.*\$9", shown, re.MULTILINE)
    assert run(["diff", old, new, "--function", "same"]) == 0
    assert capsys.readouterr().out.startswith("same: the same\n")
    assert run(["diff", old, new, "--function", "nothing"]) == 2
    assert "has no function nothing" in capsys.readouterr().err
    assert run(["diff", old, new, "--function", "work", "--json"]) == 2


def test_rows_of_each_patch_fit_a_hundred_columns() -> None:
    assert len(_row("refused", "a-patch.patch", "init-changed: " + "f" * 200)) == 100
    assert _row("built", "x.patch", "") == "built      x.patch"

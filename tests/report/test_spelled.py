"""What is shown is never obeyed, and nothing that is shown was made without being spelled."""

from __future__ import annotations

import ast
import io
import json
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table

from builder.report.spelled import Screen, many_lines, one_line, spelled
from tests.support.names import HOSTILE

PACKAGE = Path(__file__).resolve().parents[2] / "builder"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain_name.isra.0", "plain_name.isra.0"),
        ("Grüße, 世界 \u00a0\u3000", "Grüße, 世界 \u00a0\u3000"),
        ("\x1b[2J\x07", r"\u001b[2J\u0007"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("a\u202eb\u200b\ufeff", r"a\u202eb\u200b\ufeff"),
        ("\x7f\x85\x9b\u2028", r"\u007f\u0085\u009b\u2028"),
        (b"\xff\xc3".decode("utf-8", "surrogateescape"), r"\udcff\udcc3"),
        ("\U000e0041", r"\udb40\udc41"),
    ],
)
def test_what_would_be_obeyed_is_spelled_as_json_does(text: str, shown: str) -> None:
    assert spelled(text) == shown
    assert spelled(shown) == shown
    assert json.loads(f'"{shown}"') == text


def test_a_whole_text_keeps_its_lines() -> None:
    assert spelled("a\tb\r\nc\x1b\n", whole=True) == "a\tb\\r\nc\\u001b\n"


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize("terminal", [False, True])
def test_every_way_to_the_screen_spells(name: str, terminal: bool) -> None:
    """Printed, in a row of a table, in its title and head, in what the reports make."""
    text = io.StringIO()
    screen = Screen(file=text, force_terminal=terminal, width=4000, color_system=None)
    table = Table(title=name, box=None, title_justify="left")
    table.add_column(name)
    table.add_row(name)
    screen.print(name)
    screen.print(Group(one_line(name), one_line((name, "bold"))), table)
    assert [row.strip() for row in text.getvalue().splitlines()] == [spelled(name).strip()] * 6
    text.getvalue().encode()
    screen.print(many_lines(name))


def test_nothing_else_makes_text_for_a_terminal() -> None:
    """`Text` and `Console` of rich take signs away or obey them: only their place here may name them."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in ("rich", "rich.text", "rich.console"):
                found += [path.name for alias in node.names if alias.name in ("Text", "Console", "print")]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(path.name)
    assert found == ["spelled.py", "spelled.py"]

"""What a terminal shows while a fleet runs."""

from __future__ import annotations

from rich.console import Console

from builder.fleet.board import Board
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import VERDICTS
from builder.fleet.plan import make_plan
from builder.fleet.spec import Demands, Fleet, FleetFix, PatchText, Variant

KERNELS = (FleetKernel("6.1.0-1-a", "6.1.0-1-a", "1"), FleetKernel("6.12.0-2-a", "6.12.0-2-a", "2"))


def drawn(board: Board, width: int, height: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as said:
        console.print(board.drawn(width, height))
    return [line.rstrip() for line in said.get().splitlines()]


def test_the_table_and_the_counts() -> None:
    fixes = tuple(FleetFix(name, (Variant("", (PatchText("x.patch", b"x"),)),)) for name in ("first", "second"))
    board = Board(make_plan(Fleet(fixes, ("-",), Demands(cumulative="all_of_it")), None, KERNELS), workers=2)
    assert drawn(board, 80, 20)[-1].startswith("nothing yet")
    board.told({"event": "preparing", "kernel": KERNELS[0].name, "worker": "w"})
    board.told({"event": "cell", "fix": "first", "kernel": KERNELS[0].name, "verdict": "shipped"})
    board.told({"event": "begun", "fix": "second", "kernel": KERNELS[1].name, "worker": "w"})
    head, first, second, together, told = drawn(board, 80, 20)
    assert head.split() == ["fix", "6.1.0-1-a", "6.12.0-2-a"] and together.split() == ["all_of_it"]
    assert first.split() == ["first", VERDICTS["shipped"].sign] and second.split() == ["second", "…"]
    assert second.index("…") > first.index(VERDICTS["shipped"].sign) and told.startswith("1 shipped · ")
    # Where there is no room for that, counts; and why something is done again, in one line.
    board.told({"event": "again", "fix": "second", "kernel": KERNELS[1].name, "why": "a worker died " * 20})
    head, first, second, told, why = drawn(board, 60, 5)
    assert head.split() == ["kernel", "done", "shipped"]
    assert first.split() == ["6.1.0-1-a", "1/3", "1"] and second.split() == ["6.12.0-2-a", "0/3"]
    assert why.startswith("again: 6.12.0-2-a/second: a worker died") and len(why) <= 60 and "shipped" in told

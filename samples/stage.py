"""The stage of the demo: steps with their time, tables, and a record of it all for a picture."""

from __future__ import annotations

import io
import logging
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.status import Status
from rich.table import Table
from rich.text import Text

from builder.acquire.whole import write_whole

WIDTH = 116


class Stage:
    """What is shown goes to the terminal; what is shown inside `pictured` also to a record of fixed width."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(width=None if Console().is_terminal else WIDTH, highlight=False)
        self._record = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
        self._pictured = False

    def show(self, *things: RenderableType) -> None:
        for thing in things:
            self.console.print(thing)
            if self._pictured:
                self._record.print(thing)

    @contextmanager
    def pictured(self) -> Iterator[None]:
        """What is shown in this block is part of the picture."""
        self._pictured = True
        try:
            yield
        finally:
            self._pictured = False

    def chapter(self, text: str) -> None:
        self.show("", Rule(Text(text, style="bold"), align="left", style="cyan"), "")

    def say(self, text: str) -> None:
        self.show(Padding(Text.from_markup(text), (0, 2, 1, 2)))

    def command(self, words: Sequence[str | Path]) -> None:
        """A command line as one would type it; an option that does not fit begins a new line."""
        text = Text.assemble(("$ ", "dim"), (f"{words[0]} {words[1]}", "bold"))
        length = text.cell_len
        quoted = [shlex.quote(str(word)) for word in words]
        for at, word in enumerate(quoted[2:], 2):
            is_option = word.startswith("-")
            needed = 1 + len(" ".join(quoted[at : at + 2]))
            if is_option and length + needed > WIDTH - 8:
                text.append(" \\\n     ")
                length = 5
            text.append(f" {word}", style="cyan" if is_option else "")
            length += 1 + len(word)
        self.show(Padding(text, (0, 2, 1, 2)))

    @contextmanager
    def step(self, text: str) -> Iterator[list[str]]:
        """A step that takes time: a spinner while it runs; then its time, and what was put into the list."""
        found: list[str] = []
        started = time.monotonic()
        with self.console.status(text) as status, _told(status, text):
            yield found
        self.done(text, time.monotonic() - started, "".join(found))

    def done(self, text: str, seconds: float, remark: str = "") -> None:
        row = Text.assemble(("✓", "green"), f" {seconds:6.2f} s  ", text, no_wrap=True, overflow="ellipsis")
        if remark:
            row.append(f"  {remark}", style="dim")
        self.show(Padding(row, (0, 2)))

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns whose head begins with `>` are numbers, aligned by their last digits."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="cyan")
        for head in heads:
            table.add_column(head.removeprefix(">"), justify="right" if head.startswith(">") else "left")
        for row in rows:
            # texts of our own making: no markup in them
            table.add_row(*(Text(str(cell)) for cell in row))
        self.show(Padding(table, (0, 2, 1, 2)))

    def versions(self, title: str, texts: Mapping[str, str]) -> None:
        """Texts side by side, line by line; a line that differs from the column before stands out."""
        table = Table(header_style="cyan")
        columns = [text.rstrip("\n").splitlines() for text in texts.values()]
        longest = max(map(len, columns))
        for column in columns:
            column.extend([""] * (longest - len(column)))
        for head in texts:
            table.add_column(head, overflow="fold", ratio=1)
        for lines in zip(*columns, strict=True):
            table.add_row(
                *(
                    Text(line, style="bold yellow" if at and line != lines[at - 1] else "")
                    for at, line in enumerate(lines)
                )
            )
        self.show(Padding(Text(title, style="bold"), (0, 2)), Padding(table, (0, 2, 1, 2)))

    def save_picture(self, path: Path, title: str) -> None:
        """Write the record as SVG, without the fonts that rich would have a reader's browser fetch."""
        text = re.sub(r"@font-face \{.*?\}\n?", "", self._record.export_svg(title=title), flags=re.DOTALL)
        write_whole(path, "\n".join(line.rstrip() for line in text.splitlines()) + "\n")


@contextmanager
def _told(status: Status, text: str) -> Iterator[None]:
    """While a step runs, what the package logs is shown beside it."""
    handler = _Teller(status, text)
    logger = logging.getLogger("bespoke")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Teller(logging.Handler):
    def __init__(self, status: Status, text: str) -> None:
        super().__init__()
        self._status, self._text = status, text

    def emit(self, record: logging.LogRecord) -> None:
        self._status.update(Text.assemble(self._text, ("  " + record.getMessage(), "dim")))

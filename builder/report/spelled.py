"""Text that others chose, made fit to be shown: what a terminal or a page would obey is spelled out.

Names, paths, patches and kernel logs come from others. Control and format characters (escape sequences, those that
turn the direction of a text, those without width), ends of lines and bytes that are no UTF-8 are shown as JSON spells
them, so that what `--json` says can be searched for what was seen.

All of the terminal's text is made here: `one_line` and `many_lines` make what the reports arrange, and a `Screen`
spells every other string that it is given, cells of tables too.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Final

from rich.console import Console
from rich.text import Text

#: what may have to be spelled; ASCII that is shown as it is, and ends of lines, are the most of every text
_DOUBTFUL: Final = re.compile(r"[^\n -~]")

Part = str | tuple[str, str]
"""A text, or a text and its style."""


def spelled(text: str, *, whole: bool = False) -> str:
    """`text` in one line of characters that are shown and not obeyed; the lines of a `whole` text, and tabs, stay."""
    found = _DOUBTFUL.sub(lambda match: _spelled(match[0], whole), text)
    return found if whole else found.replace("\n", r"\n")


def _spelled(character: str, whole: bool) -> str:
    # Spaces of all widths are no danger, though Python calls all but one of them unprintable.
    shown = character.isprintable() or unicodedata.category(character) == "Zs" or (whole and character == "\t")
    return character if shown else json.dumps(character)[1:-1]


def one_line(*parts: Part, style: str = "") -> Text:
    """One line of a report."""
    pieces = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((spelled(text), of_part) for text, of_part in pieces), style=style)


def many_lines(text: str, style: str = "") -> Text:
    """A text of several lines, such as a kernel's log."""
    return Text(spelled(text, whole=True), style=style)


class Screen(Console):
    """A console that shows strings as they are: nothing in them is markup, an emoji, or an escape sequence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """As a console does; but what is no terminal has no width, and no line is filled up to one."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write(re.sub(r" +$", "", captured.get(), flags=re.MULTILINE))
        self.file.flush()

    def render_str(self, text: str, **options: Any) -> Text:
        """Of every string that is printed or stands in a table."""
        return super().render_str(spelled(text), **options)

"""The documentation where a command shows it: `docs/` of the source tree, or the copy inside the installed package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.codes import CODES, Code, unknown
from builder.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class GuideSection:
    """What the guide says of a code: Markdown without its heading, and the page that it stands on, below `docs/`."""

    code: Code
    page: str
    text: str

    @property
    def shown(self) -> str:
        """The text without what only the examples' tests read."""
        return _COMMENT.sub("", self.text).strip()


def docs() -> Path:
    """Where the pages are."""
    return next(place for place in (_PACKAGE / "_docs", _PACKAGE.parent / "docs") if place.is_dir())


def explain(name: str) -> GuideSection:
    """The section of a code; UsageError for a word that is none."""
    code = CODES.get(name)
    if code is None:
        raise UsageError(unknown(name))
    page = f"codes/{code.page}.md"
    return GuideSection(code, page, sections((docs() / page).read_text())[name])


def sections(page: str) -> dict[str, str]:
    """The text of each section of a page of codes, by the code that its heading is."""
    _, *parts = re.split(r"^### `([a-z-]+)`$", page, flags=re.MULTILINE)
    texts = (re.split(r"^#{1,2} ", text, maxsplit=1, flags=re.MULTILINE)[0] for text in parts[1::2])
    return dict(zip(parts[::2], texts, strict=True))

"""`python -m tests.docs` writes into the pages of codes what their examples print now; look at the difference."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from builder.acquire.packages import newest_kernel
from builder.codes import CODES
from builder.guide import docs
from tests.docs.examples import Example, Surroundings, examples


def main() -> None:
    releases = {series: newest_kernel(series) for series in ("6.1", "6.12")}
    releases["7"] = newest_kernel("7", suite="sid")
    for code in sys.argv[1:] or CODES:
        for example in examples(code):
            with tempfile.TemporaryDirectory() as place:
                try:
                    lines = Surroundings("gcc-12", Path(place), releases).said(example)
                except Exception as problem:
                    print(code, "FAILED", repr(problem)[:1500])
                    continue
                print(code, *lines, sep="\n    ")
                if not example.fits(lines):
                    written(example, lines)


def written(example: Example, lines: list[str]) -> None:
    page = docs() / f"codes/{CODES[example.code].page}.md"
    text = page.read_text()
    start = text.index(f"### `{example.code}`\n")
    head, fence, tail = text[start:].partition("```console\n")
    assert fence
    tail = re.sub(r"\A(.*\n)*?```", "", tail, count=1)
    shown = "".join(f"{line}\n" for line in (f"$ {example.command}", *lines))
    page.write_text(text[:start] + head + fence + shown + "```" + tail)


if __name__ == "__main__":
    main()

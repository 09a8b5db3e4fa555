"""The examples of docs/codes: each is run as its comment says, and what it prints is what the page shows.

A comment `<!-- example: KIND WORDS -->` stands before the fences that it is about:

    diff FLAGS...    a diff of a C file: both versions are compiled and compared
    build [6.12] [alone] FLAGS...
                     the same, then bound to a kernel (the newest 6.1) on which a module `target` runs, which is the old
                     version unless a fence "what runs" says otherwise; `alone` there is no such module
    patch            a source patch: the command of the console's fence is run on it
    run              only a command
    check FORM [6.12]
                     a livepatch of the sample module in a form of tests/preflight/broken.py
    by FILE          what no fence can hold: that test is about it
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from builder.cli import run
from builder.codes import CODES
from builder.compose.owner import Objects
from builder.errors import Refusal, RefusedError
from builder.guide import docs, sections
from builder.pipeline import ModulePlan, build, diff_objects
from tests.compose.conftest import PRELUDE
from tests.preflight.test_broken import of_a_module
from tests.support.compiling import TRACED, builder
from tests.support.kernels import opened

RELEASE = "6.1.0-50-amd64"
"""What the pages call the kernel; the tests take the newest of its series."""
_COMMENT = re.compile(r"<!-- example: (\w+) ?(.*?) -->\n")
_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_COMMANDS = {
    "diff": "bespoke diff old.o new.o",
    "build": f"bespoke build old.o new.o --kernel {RELEASE} --object target=target.ko -o fix.ko",
    "check": f"bespoke check fix.ko --kernel {RELEASE}",
}


@dataclass(frozen=True)
class Example:
    """One example of the section of `code`: `kind` and `words` of its comment, the fences behind it by their kinds."""

    code: str
    kind: str
    words: tuple[str, ...]
    fences: dict[str, str]

    @property
    def command(self) -> str:
        """What the page says to run."""
        first = self.fences["console"].partition("\n")[0]
        return first.removeprefix("$ ") or _COMMANDS[self.kind]

    @property
    def shown(self) -> list[str]:
        """What the page says that it prints."""
        return self.fences["console"].splitlines()[1:]

    @property
    def versions(self) -> tuple[str, str]:
        """The old and the new version of what the page shows as a difference."""
        lines = self.fences["diff"].splitlines(keepends=True)
        assert {line[0] for line in lines if line.strip()} <= set(" +-")
        old, new = ("".join(line[1:] for line in lines if line[0] in mark) for mark in ("- \n", "+ \n"))
        return PRELUDE + old, PRELUDE + new


@dataclass(frozen=True)
class Surroundings:
    """What examples are run with: a compiler, a directory, the newest kernels by series, a broken livepatch's forms."""

    gcc: str
    place: Path
    releases: dict[str, str]

    def said(self, example: Example) -> list[str]:
        """What the command prints of the section's code."""
        return list(getattr(self, f"_{example.kind}")(example))

    def _diff(self, example: Example) -> Iterator[str]:
        compiled = builder(self.gcc, self.place, TRACED)
        found = diff_objects(*(compiled(text, *example.words) for text in example.versions))
        yield from _lines(example.code, found.judged.refusals, found.judged.warnings)

    def _build(self, example: Example) -> Iterator[str]:
        words = [word for word in example.words if word not in ("6.12", "alone")]
        release = self.releases["6.12" if "6.12" in example.words else "6.1"]
        compiled = builder(self.gcc, self.place, TRACED)
        old, new = (compiled(text, *words) for text in example.versions)
        running = example.fences.get('c title="what runs"')
        target = compiled(PRELUDE + running, *words) if running else old
        alone = "alone" in example.words
        objects = Objects(opened(release), {} if alone else {"target": Path(target.name)})
        try:
            made = build([diff_objects(old, new)], objects, ModulePlan("fix"), inside=None if alone else "target")
        except RefusedError as error:
            lines = list(_lines(example.code, error.refusals, error.warnings))
        else:
            assert made is not None
            lines = list(_lines(example.code, (), made.manifest.warnings))
        yield from (line.replace(release, RELEASE) for line in lines)

    def _check(self, example: Example) -> Iterator[str]:
        form, *series = example.words
        subject = broken_livepatch(self.releases[series[0] if series else "6.1"])
        report = subject.checker().check(subject.forms[form])
        for word, rows in (("refused", report.refusals), ("problem", report.problems)):
            errno = f" (errno {rows[0].errno})" if word == "refused" and rows else ""
            found = [f"{word}: {row.code}: {row.message}{errno}" for row in rows if row.code == example.code]
            yield from (line.replace(subject.kernel.release, RELEASE) for line in found[:1])

    def _patch(self, example: Example) -> Iterator[str]:
        (self.place / "fix.patch").write_text(example.fences["diff"])
        yield from self._run(example)

    def _run(self, example: Example) -> Iterator[str]:
        release = self.releases["6.1"]
        program, *words = shlex.split(example.command.replace(RELEASE, release))
        assert program == "bespoke"
        told = io.StringIO()
        with contextlib.chdir(self.place), contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            run(words)
        for line in told.getvalue().splitlines():
            text = line.strip().removeprefix("bespoke: ")
            if re.match(rf"(\w+: )?{example.code}: ", text):
                yield text.replace(release, RELEASE).replace(str(self.place) + os.sep, "")


broken_livepatch = cache(of_a_module)
"""Of the sample module, for a kernel's release."""


def _lines(code: str, refusals: Iterable[Refusal], warnings: Iterable[Refusal]) -> Iterator[str]:
    for word, rows in (("refused", refusals), ("warning", warnings)):
        yield from (f"{word}: {row}" for row in rows if row.code == code)


def examples(code: str) -> list[Example]:
    """Those of a code's section."""
    text = sections((docs() / f"codes/{CODES[code].page}.md").read_text()).get(code, "")
    found = []
    starts = [*_COMMENT.finditer(text)]
    for row, behind in zip(starts, [*(later.start() for later in starts[1:]), len(text)], strict=True):
        fences = {fence[1]: fence[2] for fence in _FENCE.finditer(text[row.end() : behind])}
        found.append(Example(code, row[1], tuple(shlex.split(row[2])), fences))
    return found

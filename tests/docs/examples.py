"""The examples of docs/codes: each is run as its comment says, and what it prints is what the page shows.

A comment `<!-- example: KIND WORDS -->` stands before the fences that it is about:

    diff FLAGS...    a diff of a C file: both versions are compiled and compared
    build [6.12] [alone] FLAGS...
                     the same, then bound to a kernel (the newest 6.1) on which a module `target` runs, which is the old
                     version unless fences "what runs" (one for each of its files) say otherwise; `alone` there is no
                     such module. A fence "first.ko" is a difference that an earlier livepatch has made, which this one
                     is built on, and replaces
    patch            a source patch: the command of the console's fence is run on it, beside the kernel's image with a
                     configuration of its own where a fence "config" has lines of one
    source           the same, where the kernel's source is unpacked and compiled for it: a long test
    tree [FILE]      the same in the small tree of tests/acquire/conftest.py, from which FILE is gone
    run              only a command
    check FORM [6.12|7]
                     a module in a form of tests/docs/forms.py, or a livepatch in one of tests/preflight/broken.py
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from builder.acquire.packages import fetch_kernel
from builder.acquire.patch import prepare_patch
from builder.binary import ObjectFile
from builder.cli import run
from builder.codes import CODES
from builder.compose.owner import Objects
from builder.errors import Refusal, RefusedError
from builder.guide import docs, sections
from builder.pipeline import ModulePlan, build, diff_objects
from tests.acquire.conftest import mini_tree
from tests.compose.conftest import PRELUDE
from tests.docs.forms import WrongModules
from tests.support.compiling import TRACED, builder
from tests.support.kernels import opened

RELEASE = "6.1.0-50-amd64"
"""What the pages call the kernel; the tests take the newest of its series."""
FIRST, CONFIG, SOURCE = 'diff title="first.ko"', 'text title="config"', 'c title="twice.c"'
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

    def fits(self, said: Sequence[str]) -> bool:
        """Whether the page shows what was said; addresses and checksums are each kernel's own, `...` is anything."""
        return bool(said) and fits("\n".join(self.shown), "\n".join(said))

    def versions(self, fence: str = "diff") -> tuple[str, str]:
        """The old and the new version of what the page shows as a difference."""
        lines = self.fences[fence].splitlines(keepends=True)
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
        found = diff_objects(*(compiled(text, *example.words) for text in example.versions()))
        yield from _lines(example.code, found.judged.refusals, found.judged.warnings)

    def _build(self, example: Example) -> Iterator[str]:
        words = [word for word in example.words if word not in ("6.12", "alone")]
        release = self.releases["6.12" if "6.12" in example.words else "6.1"]
        compiled = builder(self.gcc, self.place, TRACED)
        old, new = (compiled(text, *words) for text in example.versions())
        running = [text for fence, text in example.fences.items() if fence.startswith('c title="what runs')]
        target = self._joined([compiled(PRELUDE + text, *words) for text in running] or [old])
        inside = None if "alone" in example.words else "target"
        objects = Objects(opened(release), {inside: target} if inside else {})
        plan = ModulePlan("fix")
        if FIRST in example.fences:
            before = diff_objects(*(compiled(text, *words) for text in example.versions(FIRST)))
            earlier, on = build([before], objects, ModulePlan("first"), inside=inside), self.place / "first.ko"
            assert earlier is not None
            on.write_bytes(earlier.content)
            plan = ModulePlan("fix", on=on, replace=True)
        try:
            made = build([diff_objects(old, new)], objects, plan, inside=inside)
        except RefusedError as error:
            lines = list(_lines(example.code, error.refusals, error.warnings))
        else:
            assert made is not None
            lines = list(_lines(example.code, (), made.manifest.warnings))
        yield from (line.replace(release, RELEASE) for line in lines)

    def _joined(self, files: Sequence[ObjectFile]) -> Path:
        """What is linked of the objects."""
        if len(files) == 1:
            return Path(files[0].name)
        linked = self.place / "target.o"
        subprocess.run(["ld", "-r", *(file.name for file in files), "-o", linked], check=True)
        return linked

    def _check(self, example: Example) -> Iterator[str]:
        form, *series = example.words
        release = self.releases[series[0] if series else "6.1"]
        report = WrongModules(self.place, self.releases, example.fences.get(SOURCE, "")).check(form, release)
        for word, rows in (("refused", report.refusals), ("problem", report.problems)):
            errno = f" (errno {rows[0].errno})" if word == "refused" and rows else ""
            found = [f"{word}: {row.code}: {row.message}{errno}" for row in rows if row.code == example.code]
            yield from (self._as_shown(line, release) for line in found[:1])

    def _patch(self, example: Example) -> Iterator[str]:
        (self.place / "fix.patch").write_text(example.fences["diff"])
        if CONFIG in example.fences:
            kernel = fetch_kernel(self.releases["6.1"])
            (self.place / "vmlinuz").symlink_to(kernel.image)
            # A later line of an option counts.
            (self.place / "config").write_text(kernel.config.read_text() + example.fences[CONFIG])
        yield from self._run(example)

    _source = _patch

    def _tree(self, example: Example) -> Iterator[str]:
        with mock.patch.dict(os.environ, BESPOKE_CACHE=str(self.place / "cache")):
            tree = mini_tree(self.place / "tree")
            for name in example.words:
                (tree.root / name).unlink()
            (self.place / "fix.patch").write_text(example.fences["diff"])
            try:
                rows = prepare_patch([self.place / "fix.patch"], tree).warnings
            except RefusedError as error:
                yield from _lines(example.code, error.refusals, error.warnings)
            else:
                yield from _lines(example.code, (), rows)

    def _run(self, example: Example) -> Iterator[str]:
        release = self.releases["6.1"]
        # Also of another flavour.
        program, *words = shlex.split(example.command.replace(_base(RELEASE), _base(release)))
        assert program == "bespoke"
        told = io.StringIO()
        with contextlib.chdir(self.place), contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            run(words)
        for line in told.getvalue().splitlines():
            text = line.strip().removeprefix("bespoke: ")
            if re.match(rf"(\w+: )?{example.code}: ", text):
                yield self._as_shown(text, release)

    def _as_shown(self, line: str, release: str) -> str:
        """With the page's name of the kernel, and files by their names."""
        return line.replace(_base(release), _base(RELEASE)).replace(str(self.place) + os.sep, "")


def _base(release: str) -> str:
    return release.removesuffix("-amd64")


def fits(shown: str, said: str) -> bool:
    """Whether a page shows what was said; `...` is anything, also some lines."""
    pattern = re.escape(_plain(shown)).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, _plain(said), re.DOTALL) is not None


def _plain(line: str) -> str:
    return re.sub(r"\b0x[0-9a-f]+", "0x_", line)


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

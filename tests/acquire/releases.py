"""Real fixes of the kinds that are hard to ship: each file that differs between two releases, alone, against the first.

    python -m tests.acquire.releases OLD NEW [--kind KIND=N ...] [--most LINES] [--seed N] [--only PATH ...]

OLD and NEW are kernels of a distribution (`6.1.0-50-amd64 6.1.0-56-amd64`). A candidate is a file of OLD's
configuration as NEW has it, in OLD's tree; its kind is told by what its lines are in (see `KINDS`). Each is tried
twice: as a source patch, which finds callers in other files, and as the pair of objects that came of it, alone. What
comes of each is told by kind, with the code and the reason of what is refused; nothing is accepted. A pair with a
changed initial value is tried with `--set`, too. Files that do not compile alone, for they need a changed header, are
told as errors.
"""

from __future__ import annotations

import argparse
import difflib
import os
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire.cache import scratch
from builder.acquire.compile import AS_USUAL
from builder.acquire.kbuild import Command
from builder.acquire.marks.syntax import SourceText
from builder.acquire.pairs import ObjectPair
from builder.acquire.source import SourceTree
from builder.acquire.sources import find_source
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit.module import Module
from builder.emit.patched import PatchRefusedError
from builder.errors import NOTHING, Allowed, BespokeError, RefusedError
from builder.pipeline import ModulePlan, build, diff, patch, source_target

KINDS: Final[Mapping[str, int]] = {
    "no-ftrace": 14, "bare": 6, "init": 6, "init-beside": 6, "exit": 6, "data": 8, "table": 5, "export": 2, "owners": 3,
    "key": 3,
}  # fmt: skip
"""How many candidates of each kind are tried: files without ftrace; functions that are notrace, noinstr or inline in
the source; `__init` code alone and beside other; `__exit` code; initial values; read-only ones; exports; objects of
several modules; static keys that a module defines."""

_BARE: Final = re.compile(r"\b(?:notrace|noinstr|inline|__always_inline|nokprobe_inline)\b")
_SECTIONS: Final = {"init": re.compile(r"\b__(?:net_)?init\b"), "exit": re.compile(r"\b__(?:net_)?exit\b")}
_VALUE: Final = re.compile(rb"^(?!typedef|struct \w+ \{|union|enum)[^;{}#]*?=[^=]", re.DOTALL)
_KEY: Final = re.compile(rb"^(?:static )?DEFINE_STATIC_(?:KEY|CALL)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file that differs; `kinds` are all that its change is of, `lines` how many lines are added or removed."""

    path: str
    kinds: tuple[str, ...]
    lines: int


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a candidate in one way: ships, nothing, refused, or error; `reasons` are lines for a person."""

    outcome: str
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.outcome} ({self.seconds:.0f} s)" + "".join(f"\n      {row}" for row in self.reasons)


def candidates(old: SourceTree, new: SourceTree, most: int) -> Iterator[Candidate]:
    """Every C file of the configuration that differs by at most `most` lines and is of some kind, in order of path."""
    by_file: defaultdict[str, list[Command]] = defaultdict(list)
    with old.objects() as listed:
        for command in listed.all():
            if command.owners and command.source.endswith(".c"):
                by_file[os.path.normpath(command.source)].append(command)
    for file in sorted(by_file):
        places = [tree.root / file for tree in (old, new)]
        if not all(place.is_file() for place in places):
            continue
        before, after = (place.read_bytes() for place in places)
        if before == after:
            continue
        changed = _changed_lines(before, after)
        lines = sum(map(len, changed))
        if lines <= most and (kinds := _kinds((before, after), changed, by_file[file])):
            yield Candidate(file, kinds, lines)


def _changed_lines(before: bytes, after: bytes) -> tuple[list[int], list[int]]:
    """The numbers, from 1, of the lines that only one of two texts has."""
    old, new = before.split(b"\n"), after.split(b"\n")
    # What is the same at the start and the end is most of a file, and slow to be compared.
    first = next(n for n, (a, b) in enumerate(zip([*old, b"\0"], [*new, b"\1"], strict=False)) if a != b)
    last = next(n for n, (a, b) in enumerate(zip([*old[:first:-1], 0], [*new[:first:-1], 1], strict=False)) if a != b)
    old, new = (text[first : len(text) - last] for text in (old, new))
    rows = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    spans = [(range(a, b), range(c, d)) for tag, a, b, c, d in rows if tag != "equal"]
    return [n + first + 1 for span, _ in spans for n in span], [n + first + 1 for _, span in spans for n in span]


def _kinds(texts: Sequence[bytes], changed: Sequence[Sequence[int]], commands: Sequence[Command]) -> tuple[str, ...]:
    """What a change is of."""
    found: dict[str, None] = {}
    for text, lines in zip(texts, changed, strict=True):
        source = SourceText("", text)
        for line in lines:
            if source.code_lines[line - 1].strip():
                found[_of_line(source, line)] = None
    live = found.keys() & {"live", "bare"}
    kinds: list[str] = [kind for kind in ("exit", "data", "table", "export") if kind in found]
    if live and not any("-pg" in command.words for command in commands):
        kinds.append("no-ftrace")
    if "bare" in found:
        kinds.append("bare")
    if "init" in found:
        kinds.append("init-beside" if live else "init")
    if live and any(len(command.owners) > 1 for command in commands):
        kinds.append("owners")
    if live and _KEY.search(texts[0]) and "vmlinux" not in commands[0].owners:
        kinds.append("key")
    return tuple(kinds)


def _of_line(source: SourceText, line: int) -> str:
    """What one line is in: a kind of function or of data, "live" for any other function, "" for what makes no code."""
    function = source.around(line)
    if function is not None:
        kinds = (kind for kind, words in _SECTIONS.items() if words.search(function.head))
        return next(kinds, "bare" if _BARE.search(function.head) else "live")
    if b"EXPORT_SYMBOL" in source.lines[line - 1]:
        return "export"
    # The declaration around it, from the last line that ended one to the next.
    first = last = line
    while first > 1 and not re.search(rb"^[})]?[^\s].*;\s*$|^}|^#|^\s*$", source.code_lines[first - 2]):
        first -= 1
    while last < len(source.lines) and not re.search(rb"^}|^[^\s].*;\s*$", source.code_lines[last - 1]):
        last += 1
    text = b"\n".join(source.code_lines[first - 1 : last]).lstrip()
    if not _VALUE.match(text):
        return ""
    return "table" if re.match(rb"[^=]*\bconst\b", text) else "data"


def chosen(found: Iterable[Candidate], wanted: Mapping[str, int], seed: int) -> dict[str, list[Candidate]]:
    """Kind -> candidates in random order, as many as are wanted; one of several kinds stands under the rarest."""
    by_kind: defaultdict[str, list[Candidate]] = defaultdict(list)
    rows = list(found)
    common = Counter(kind for row in rows for kind in row.kinds)
    for row in rows:
        kinds = [kind for kind in row.kinds if kind in wanted]
        if kinds:
            by_kind[min(kinds, key=lambda kind: common[kind])].append(row)
    out = {}
    for kind, count in wanted.items():
        random.Random(f"{seed}{kind}").shuffle(by_kind[kind])
        out[kind] = by_kind[kind][:count]
    return out


def attempt(path: str, old: SourceTree, new: SourceTree, objects: Objects) -> dict[str, Tried]:
    """A candidate as a source patch, as its pair of objects alone, and where initial values stand in the way, with
    these set (`--set`)."""
    before, after = ((tree.root / path).read_text("utf-8", "surrogateescape") for tree in (old, new))
    pairs: list[ObjectPair] = []
    with scratch("releases") as folder:
        place = Path(folder) / "fix.patch"
        first, second = (re.findall(r"[^\n]*\n|[^\n]+", text) for text in (before, after))
        text = "".join(difflib.unified_diff(first, second, f"a/{path}", f"b/{path}"))
        place.write_text(text, "utf-8", "surrogateescape")

        def whole() -> Module | None:
            try:
                made = patch([place], old, objects, ModulePlan("release_fix"), AS_USUAL)
            except PatchRefusedError as refused:
                pairs.extend(refused.objects.pairs)
                raise
            pairs.extend(made.objects.pairs)
            return made.module

        as_patch = _tried(whole)
    # The callers that were brought in are pairs of an object with itself.
    own = [pair for pair in pairs if pair.old != pair.new]
    if not own:
        return {"patch": as_patch}

    def alone(allowed: Allowed) -> Tried:
        compared = [diff(pair.old, pair.new, allowed=allowed) for pair in own]
        return _tried(lambda: build(compared, objects, ModulePlan("release_fix", allowed=allowed)))

    found = {"patch": as_patch, "pair": alone(NOTHING)}
    values = [row.split()[1].rstrip(":") for row in found["pair"].reasons if row.startswith("data-changed ")]
    return found | ({"set": alone(Allowed.parse((), values))} if values else {})


def _tried(work: Callable[[], Module | None]) -> Tried:
    started = time.monotonic()
    rows: tuple[str, ...] = ()
    try:
        outcome = "nothing" if work() is None else "ships"
    except RefusedError as refused:
        outcome = "refused"
        rows = tuple(dict.fromkeys(f"{row.code} {row.symbol}: {row.message}" for row in refused.refusals))
    except BespokeError as error:
        outcome, rows = "error", (str(error).partition("\n")[0],)
    return Tried(outcome, rows, time.monotonic() - started)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acquire.releases")
    parser.add_argument("old", metavar="OLD", help="the release that is patched")
    parser.add_argument("new", metavar="NEW", help="the release that the files are taken from")
    parser.add_argument("--kind", action="append", default=[], metavar="KIND=N", help="only these kinds, so many each")
    parser.add_argument("--most", type=int, default=60, metavar="LINES", help="larger changes are left out")
    parser.add_argument("--only", nargs="+", metavar="PATH", help="these files, of whatever kind")
    parser.add_argument("--list", action="store_true", help="show the candidates and try none")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args(arguments)
    wanted = {kind: int(count) for kind, _, count in (row.partition("=") for row in options.kind)} or KINDS
    try:
        kernel = Kernel.open(options.old)
        old, new = (find_source(None, source_target(Kernel.open(name))) for name in (options.old, options.new))
        rows = (
            {"asked for": [Candidate(path, (), 0) for path in options.only]}
            if options.only
            else chosen(candidates(old, new, options.most), wanted, options.seed)
        )
    except BespokeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    objects = Objects(kernel)
    total: dict[str, Counter[str]] = {kind: Counter() for kind in rows}
    for kind, found in rows.items():
        for row in found:
            print(f"{kind}: {row.path} ({row.lines} lines; {', '.join(row.kinds)})", flush=True)
            if options.list:
                continue
            for way, tried in attempt(row.path, old, new, objects).items():
                print(f"    {way}: {tried}", flush=True)
                total[kind][f"{way} {tried.outcome}"] += 1
    for kind, counts in total.items():
        print(f"{kind}: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

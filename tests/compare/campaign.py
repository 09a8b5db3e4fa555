"""Identity and mutation campaign over the distribution's own kernel source (`tox -e campaign`).

For each file of a seeded sample: the object compared with itself, with a second
compilation in another directory, and with one of the same source after lines
were put on top; none may differ. Then mutations, one after the other, until one
changes the object: it must never be `unchanged`, and its function must be named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from builder.acquire.cache import cache_root, scratch
from builder.acquire.compile import compile_object, kept, object_key
from builder.acquire.kbuild import Command
from builder.acquire.shadow import Shadow
from builder.acquire.source import SourceTree, fetch_source
from builder.binary import ObjectFile, SectionIndex, read_object
from builder.compare import Comparison, compare, naming
from builder.compare.structs import struct_changes, types_unknown
from builder.errors import BespokeError, InputError
from tests.compare.mutations import KINDS, Mutation, mutations

AREAS = ("fs/ext4/", "fs/xfs/", "fs/btrfs/", "net/core/", "mm/", "kernel/", "drivers/")
"""Each gives its share of the sample; what is left over comes from everywhere."""
TRIES = 6
IDENTITIES = ("itself", "again", "lines")


@dataclass
class Result:
    """What came out for one file; `failures` are what the bar forbids."""

    path: str
    functions: int = 0
    line_only: int = 0
    identities: list[str] = field(default_factory=list)
    kind: str = ""
    mutation: str = ""
    tried: int = 0
    named: str = ""
    failures: list[str] = field(default_factory=list)
    error: str = ""


def sample(commands: Sequence[Command], count: int, seed: int) -> list[Command]:
    """`count` C objects of vmlinux and modules, each area with its share, in an order that `seed` decides."""
    pool = [c for c in commands if c.owners and c.source.endswith(".c")]
    chance = random.Random(seed)
    chance.shuffle(pool)
    share = count // (len(AREAS) + 3)
    chosen: dict[str, Command] = {}
    for area in AREAS:
        for command in [c for c in pool if os.path.normpath(c.source).startswith(area)][:share]:
            chosen.setdefault(command.object, command)
    for command in pool:
        if len(chosen) >= count:
            break
        chosen.setdefault(command.object, command)
    rows = list(chosen.values())
    chance.shuffle(rows)
    return rows


def lines_on_top(text: str, seed: str) -> str:
    """100 blank lines, or a comment of some lines."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        return "\n" * 100 + text
    return "/*\n" + " * what stands here changes no code\n" * chance.randrange(1, 300) + " */\n" + text


class Campaign:
    def __init__(self, tree: SourceTree, seed: int, kinds: Sequence[str]) -> None:
        self.tree = tree
        self.seed = seed
        self.kinds = kinds

    def compiled(self, command: Command, changed: Mapping[str, bytes | None], again: bool = False) -> Path:
        """The object of `command` with `changed` in place; `again`: anew, in a directory of its own."""
        key = object_key(self.tree, command, changed) + ("-again" if again else "")
        if (before := kept(self.tree, key)) is not None:
            return before.object
        if not changed and not again:
            return compile_object(self.tree, command, root=self.tree.root, key=key).object
        with scratch("campaign") as place:
            shadow = Shadow(self.tree.root, place, changed)
            shadow.make_real(os.path.dirname(command.source))
            return compile_object(self.tree, command, root=place, key=key).object

    def run(self, command: Command, number: int) -> Result:
        path = os.path.normpath(command.source)
        result = Result(path, kind=self.kinds[number % len(self.kinds)])
        try:
            self._identities(command, path, result)
            self._mutation(command, path, result)
        except BespokeError as error:
            result.error = str(error)
        return result

    def _identities(self, command: Command, path: str, result: Result) -> None:
        text = (self.tree.root / path).read_text(errors="surrogateescape")
        old = read_object(self.compiled(command, {}))
        if unknown := types_unknown(old):
            result.failures.append(f"itself: types unknown: {unknown}")
        top = lines_on_top(text, f"{self.seed}:{path}").encode(errors="surrogateescape")
        for name in IDENTITIES:
            other = old
            if name == "again":
                other = read_object(self.compiled(command, {}, again=True))
            elif name == "lines":
                other = read_object(self.compiled(command, {path: top}))
            comparison = compare(old, other)
            result.functions = len(comparison.functions)
            result.line_only = len(comparison.line_only)
            found = differences(comparison)
            found += [f"layout of {c.name} changed" for c in struct_changes(old, other)]
            result.identities.append(name)
            result.failures += [f"{name}: {row}" for row in found]

    def _mutation(self, command: Command, path: str, result: Result) -> None:
        text = (self.tree.root / path).read_text(errors="surrogateescape")
        base = read_object(self.compiled(command, {}))
        at = self.kinds.index(result.kind)
        for kind in (*self.kinds[at:], *self.kinds[:at]):
            for mutation in mutations(text, kind, f"{self.seed}:{path}", TRIES):
                result.tried += 1
                try:
                    made = self.compiled(command, {path: mutation.text.encode(errors="surrogateescape")})
                except InputError:
                    continue  # not C any more
                mutant = read_object(made)
                if content(base) == content(mutant):
                    continue
                result.kind = kind
                result.mutation = f"{mutation.function}, line {mutation.line}: {mutation.what}"
                self._judge(base, mutant, mutation, result)
                return

    def _judge(self, base: ObjectFile, mutant: ObjectFile, mutation: Mutation, result: Result) -> None:
        comparison = compare(base, mutant)
        named = {a.name for a in (*comparison.changed, *comparison.new_functions, *comparison.removed_functions)}
        result.named = ", ".join(sorted(named))
        families = {naming.family(name).partition(".")[0] for name in named}
        if not named and not differences(comparison):
            result.failures.append(f"{mutation.kind} is unchanged")
        elif mutation.function not in families:
            present = any(mutation.function in a.names for a in comparison.new.functions)
            if present and raw(base, mutation.function) != raw(mutant, mutation.function):
                result.failures.append(f"{mutation.kind}: {mutation.function} is not named, but {result.named}")
            elif not named:
                result.failures.append(f"{mutation.kind}: no function is named")


def differences(comparison: Comparison) -> list[str]:
    """All that keeps a pair from being `unchanged`."""
    rows = [f"{a.name} changed: {comparison.functions[a].reason}" for a in comparison.changed]
    rows += [f"{a.name} is new" for a in comparison.new_functions]
    rows += [f"{a.name} is removed" for a in comparison.removed_functions]
    rows += [f"data {a.name} changed: {d.reason}" for a, d in comparison.data.items() if d.is_changed]
    rows += [f"data {a.name} is new" for a in comparison.new_data]
    rows += [f"data {a.name} is removed" for a in comparison.removed_data]
    rows += [f"{a.name} is ambiguous: {why}" for a, why in comparison.correlation.ambiguous]
    return rows


def content(obj: ObjectFile) -> Counter[tuple[object, ...]]:
    """What an object would put into memory: every allocated section with its relocations, debug left out."""
    rows: Counter[tuple[object, ...]] = Counter()
    for section in obj.sections:
        if section.is_alloc and section.name not in ("__bug_table", "__dyndbg", ".printk_index"):
            rows[(section.name, section.data, section.size, tuple(_relocations(obj, section.index)))] += 1
    return rows


def raw(obj: ObjectFile, name: str) -> object:
    """Bytes and relocations of the sections that hold the function, strings by content."""
    return [
        (obj.sections[s.shndx].data, tuple(_relocations(obj, s.shndx)))
        for s in obj.symbols
        if s.name == name and s.is_defined
    ]


def _relocations(obj: ObjectFile, section: SectionIndex) -> Iterable[tuple[object, ...]]:
    for r in obj.relocations_of(section):
        symbol = obj.symbols[r.symbol]
        if symbol.is_section and obj.sections[symbol.shndx].is_string:
            data = obj.sections[symbol.shndx].data
            pc = 4 if r.type in (2, 4) else 0
            yield r.offset, r.type, data[r.addend + pc : data.find(b"\0", r.addend + pc)]
        else:
            yield r.offset, r.type, symbol.name or obj.sections[symbol.shndx].name, r.addend


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__)
    parser.add_argument("--release", default="6.1.0-50-amd64")
    parser.add_argument("--files", type=int, default=220)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--jobs", "-j", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--only", help="files whose path holds this")
    parser.add_argument("--json", type=Path, help="write every result there")
    options = parser.parse_args(arguments)
    tree = fetch_source(options.release)
    with tree.objects() as objects:
        commands = sample(objects.all(), options.files, options.seed)
    numbered = [(c, k) for k, c in enumerate(commands) if not options.only or options.only in c.source]
    campaign = Campaign(tree, options.seed, options.kinds.split(","))
    started = time.monotonic()
    results: list[Result] = []
    os.nice(10)
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(lambda row: campaign.run(*row), numbered):
            results.append(result)
            _say(result, len(results), len(numbered))
            if options.json:
                options.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    print(table(results))
    print(f"{time.monotonic() - started:.0f} s; objects kept below {cache_root()}")
    return int(any(r.failures or r.error for r in results))


def _say(result: Result, number: int, of: int) -> None:
    word = "ERROR" if result.error else "FAIL" if result.failures else "ok"
    print(
        f"{number:4}/{of} {word:5} {result.path} ({result.functions} functions, {result.line_only} line-only)"
        f" {result.kind}: {result.mutation or 'none changes the object'} => {result.named}",
        flush=True,
    )
    for row in [*result.failures, *([result.error] if result.error else [])]:
        print(f"       {row}", flush=True)


def table(results: Sequence[Result]) -> str:
    """Counts per identity and per kind of mutation."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for result in results:
        for name in result.identities:
            rows[f"identity: {name}"][0] += 1
            rows[f"identity: {name}"][1] += any(f.startswith(f"{name}: ") for f in result.failures)
        if result.mutation:
            rows[f"mutation: {result.kind}"][0] += 1
            rows[f"mutation: {result.kind}"][1] += any(f.startswith(result.kind) for f in result.failures)
    out = [f"{'':24}{'pairs':>7}{'wrong':>7}"]
    out += [f"{name:24}{count:7}{bad:7}" for name, (count, bad) in rows.items()]
    functions, lines = sum(r.functions for r in results), sum(r.line_only for r in results)
    out.append(
        f"{len(results)} files, {functions} functions, {lines} of them line-only after lines were put on top; "
        f"{sum(bool(r.error) for r in results)} errors"
    )
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())

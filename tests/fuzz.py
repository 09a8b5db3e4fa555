"""Damaged inputs for whatever reads one: each gives an answer or one clear error, soon and in bounded memory.

    python -m tests.fuzz [--cases N] [--seed S] [--only SUBJECT] [--case N] [-j JOBS]

The inputs are real ones, damaged by what they consist of: headers, tables, symbols, lines. Case N of a subject is the
same for the same seed, whatever else is run; `--only SUBJECT --case N` runs it alone and shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from builder import cli
from builder.acquire.patchfile import apply_all, judge, read_patch
from builder.binary import read_object, write_object
from builder.binary.kernel import Kernel, read_module_bytes
from builder.binary.kernel.btf import Btf
from builder.binary.module import ModuleFile
from builder.compose.owner import Objects
from builder.errors import BespokeError
from builder.image.trial import TrialPlan, _Trial
from builder.pipeline import ModulePlan, build, diff, running_part
from builder.preflight.check import Checker
from tests.compare.single import mutations
from tests.conftest import ROOT, data_root
from tests.kernel.synthetic import bzimage, vmlinux
from tests.kernel.test_layout import some_btf
from tests.running.pairs import RELEASE, places
from tests.support.damage import ANY, ELF, SECTIONS, TEXT, damaged
from tests.support.measured import peak

PAIRS: Final = ("mm__page_reporting", "mm__secretmem", "net__tipc__core", "security__apparmor__procattr")
SMALL: Final = ("cold-add", "data-new", "smp-locks-section", "new-function", "altinstr_aux", "static-call-issue-1165")
MODULES: Final = ("loop", "tun", "zram", "dm_mod")
MOST_SECONDS: Final = 10
MOST_MEMORY: Final = 1 << 30
"""Beyond what the process has before the case."""


class Hang(BaseException):
    """A case has taken too much CPU time."""


class WrongError(Exception):
    """An answer that damage has changed and must not have."""


@dataclass(frozen=True)
class Subject:
    """What is fed: `inputs` are the intact ones, damaged in the ways `kinds`; `feed` is given a damaged one."""

    inputs: Sequence[bytes]
    kinds: Sequence[str]
    feed: Callable[[bytes, random.Random, Path], object]
    objects: bool = False
    """Whether half of the inputs are mutated as objects (`tests.compare.single`), and written again."""

    def damaged(self, rng: random.Random) -> bytes:
        data = rng.choice(self.inputs)
        if self.objects and rng.random() < 0.5:
            found = list(mutations(read_object(data), rng.randint(1, 3), rng.randrange(1 << 30)))
            return write_object(found[-1].object) if found else data
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            if len(data) < 64:
                break
            with contextlib.suppress(Exception):  # the damage before may have left no header to go by
                data = damaged(data, rng.choice(self.kinds), rng)
        return data


@cache
def kernel() -> Kernel:
    return Kernel.open(RELEASE)


def _pairs() -> Iterator[tuple[bytes, bytes]]:
    roots = [places(data_root())[name] for name in PAIRS]
    roots += [data_root() / "conformance/x86_64" / name for name in SMALL]
    for place in roots:
        yield (place / "orig.o").read_bytes(), (place / "patched.o").read_bytes()


def _command(*words: str | Path) -> int:
    """A command line, its output thrown away; a defect is raised (BESPOKE_DEBUG)."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return cli.run(list(map(str, words)))


def _partner(pairs: Sequence[tuple[bytes, bytes]], data: bytes) -> bytes:
    """The object of the pairs that has most of its beginning in common with a damaged one."""
    every = [(old, new) for old, new in pairs] + [(new, old) for old, new in pairs]
    close = {abs(len(one) - len(data)): other for one, other in every}
    return close[min(close)]


def _both(data: bytes, pairs: Sequence[tuple[bytes, bytes]], rng: random.Random, folder: Path) -> tuple[Path, Path]:
    """The files of a damaged object and of its partner, in either order."""
    contents = [data, _partner(pairs, data)]
    rng.shuffle(contents)
    paths = folder / "old.o", folder / "new.o"
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def _diff() -> Subject:
    pairs = list(_pairs())

    def feed(data: bytes, rng: random.Random, folder: Path) -> object:
        old, new = _both(data, pairs, rng, folder)
        more = ("--html", folder / "page.html") if rng.random() < 0.2 else ("--json",)
        return _command("diff", old, new, *more)

    return Subject([data for pair in pairs for data in pair], (*ELF, *SECTIONS), feed, objects=True)


def _build() -> Subject:
    pairs = list(_pairs())[: len(PAIRS)]
    objects = Objects(kernel())

    def feed(data: bytes, rng: random.Random, folder: Path) -> object:
        old, new = _both(data, pairs, rng, folder)
        module = build([running_part(diff(old, new), objects)], objects, ModulePlan("fuzzed"))
        return module and module.manifest.as_json()

    return Subject([data for pair in pairs for data in pair], (*ELF, *SECTIONS), feed, objects=True)


@cache
def _modules() -> tuple[bytes, ...]:
    """Modules of the release, and livepatches of the pairs."""
    found = [path for name in MODULES if (path := kernel().find_module(name)) is not None]
    objects, built = Objects(kernel()), []
    for name in PAIRS[:2]:
        place = places(data_root())[name]
        module = build([diff(place / "orig.o", place / "patched.o")], objects, ModulePlan(name))
        assert module is not None
        built.append(module.content)
    return (*map(read_module_bytes, found), *built)


def _check() -> Subject:
    checker = Checker(kernel())

    def feed(data: bytes, _rng: random.Random, _folder: Path) -> object:
        return checker.check(data).as_json()

    return Subject(_modules(), (*ELF, *SECTIONS), feed)


def _try() -> Subject:
    def feed(data: bytes, _rng: random.Random, folder: Path) -> object:
        path = folder / "x.ko"
        path.write_bytes(data)
        tried = _Trial(ModuleFile.read_named(path), kernel(), TrialPlan(), lambda _: None)
        return tried.tree.closure((*tried.targets, *tried.module.depends))

    return Subject(_modules(), (*ELF, *SECTIONS), feed)


def _patch() -> Subject:
    texts = [path.read_bytes() for path in sorted((ROOT / "samples/patches").glob("*.patch"))]
    texts.append((ROOT / "samples/target/next-version.patch").read_bytes())

    def feed(data: bytes, rng: random.Random, folder: Path) -> object:
        path = folder / "x.patch"
        path.write_bytes(data)
        changes = read_patch(path)
        refused = [judge(change) for change in changes]
        content = rng.choice((b"", b"int x;\n" * 100, data))
        return refused, apply_all(changes, lambda _: content)

    return Subject(texts, TEXT, feed)


def _kernel() -> Subject:
    images = [vmlinux(), bzimage(vmlinux("6.12"), "zstd"), bzimage(vmlinux("7.2"), "gzip"), bzimage(vmlinux(), "xz")]

    def feed(data: bytes, _rng: random.Random, folder: Path) -> object:
        path = folder / "vmlinuz"
        path.write_bytes(data)
        return _facts_of(Kernel.open(path, cache=folder / "cache"))

    return Subject(images, ANY, feed)


def _types() -> Subject:
    def feed(data: bytes, _rng: random.Random, _folder: Path) -> object:
        types = Btf(data, where="image")
        asked: tuple[Callable[[], object], ...] = (
            *(partial(types.layout, name) for name in ("module", "list_head", "flags", "region_t", "twice")),
            *(partial(types.enumerators, name) for name in ("module_state", "wide")),
            partial(types.enumerator, "HUGE"),
        )
        found = []
        for ask in asked:
            with contextlib.suppress(BespokeError):
                found.append(ask())
        return found

    return Subject([some_btf()], ANY, feed)


def _facts_of(found: Kernel) -> object:
    """All that is kept of a kernel, and a little of its image."""
    symbols = [(s.name, s.address, s.type) for s in found.all_symbols()]
    some = found.read(found.symbol("_stext").address, 64)
    return symbols, sorted(found.exports()), found.release, found.vermagic, some, found.vmlinux.read_bytes()


def _facts() -> Subject:
    """Not one input but the files of a cache, of which one is damaged; the answer stays the same."""
    image = bzimage(vmlinux(), "zstd")

    @cache
    def intact() -> tuple[Path, object]:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-facts."))
        (folder / "vmlinuz").write_bytes(image)
        return folder, _facts_of(Kernel.open(folder / "vmlinuz", cache=folder / "cache"))

    def feed(_: bytes, rng: random.Random, folder: Path) -> object:
        source, wanted = intact()
        shutil.copytree(source / "cache", folder / "cache")
        shutil.copy2(source / "vmlinuz", folder / "vmlinuz")
        place = rng.choice(sorted(path for path in (folder / "cache").rglob("*") if path.is_file()))
        content = place.read_bytes()
        place.unlink()
        if rng.random() < 0.1:
            place.mkdir()
        else:
            place.write_bytes(damaged(content, rng.choice(ANY), rng))
        if _facts_of(Kernel.open(folder / "vmlinuz", cache=folder / "cache")) != wanted:
            raise WrongError(f"{place.name} was damaged and believed")
        return wanted

    return Subject([image], ANY, feed)


SUBJECTS: Final[dict[str, Callable[[], Subject]]] = {
    "diff": _diff,
    "build": _build,
    "check": _check,
    "try": _try,
    "patch": _patch,
    "kernel": _kernel,
    "types": _types,
    "facts": _facts,
}


@cache
def subject(name: str) -> Subject:
    return SUBJECTS[name]()


class Outcome(NamedTuple):
    """What became of a case: "answer" or "error", or a failure and where it came from."""

    case: int
    kind: str
    where: str = ""
    seconds: float = 0.0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While a defect is raised and not shown, and no warning is."""
    before = os.environ.get("BESPOKE_DEBUG")
    os.environ["BESPOKE_DEBUG"] = "1"
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        del os.environ["BESPOKE_DEBUG"]
        if before is not None:
            os.environ["BESPOKE_DEBUG"] = before


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """While a case runs: Hang after so much CPU time, MemoryError where it took too much memory."""

    def hang(_signal: int, _frame: object) -> None:
        raise Hang

    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc(5))
    pages, taken = int(Path("/proc/self/statm").read_text().split()[0]), peak()
    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGPROF, hang)
    # Of the address space more than that: the emulator reserves what it never touches.
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 8 * MOST_MEMORY, before[1]))
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)
    if peak() - taken > MOST_MEMORY:
        raise MemoryError(f"{(peak() - taken) >> 20} MiB")


def one(name: str, case: int, seed: int, *, show: bool = False) -> Outcome:
    """Case number `case` of a subject."""
    rng = random.Random(f"{seed}:{name}:{case}")
    data, fed = subject(name).damaged(rng), subject(name)
    started = time.process_time()
    kind, where = "answer", ""
    with tempfile.TemporaryDirectory(prefix="fuzz.") as folder, quiet():
        try:
            with bounded():
                status = fed.feed(data, rng, Path(folder))
            kind = "error" if status == 2 else "answer"
        except BespokeError as error:
            kind = "error" if str(error).strip() else "no message"
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            kind = {Hang: "hang", MemoryError: "memory"}.get(type(problem), "traceback")
            frame = traceback.extract_tb(problem.__traceback__)[-1]
            inner = [f for f in traceback.extract_tb(problem.__traceback__) if "/builder/" in f.filename]
            at = (inner or [frame])[-1]
            where = f"{type(problem).__name__}: {problem} at {Path(at.filename).name}:{at.lineno}"
            if show:
                traceback.print_exception(problem)
    return Outcome(case, kind, where, time.process_time() - started)


def several(name: str, cases: range, seed: int) -> list[Outcome]:
    return [one(name, case, seed) for case in cases]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=SUBJECTS, action="append", metavar="SUBJECT")
    parser.add_argument("--case", type=int, metavar="N", help="this one alone")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), metavar="N")
    options = parser.parse_args(arguments)
    names = options.only or list(SUBJECTS)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.case is not None:
        console.print(*(one(name, options.case, options.seed, show=True) for name in names))
        return 0
    share = -(-options.cases // len(names))
    found: dict[str, list[Outcome]] = {name: [] for name in names}
    with ProcessPoolExecutor(options.jobs) as pool:
        chunks = [(name, range(k, min(k + 50, share))) for k in range(0, share, 50) for name in names]
        waiting = {pool.submit(several, name, cases, options.seed): name for name, cases in chunks}
        try:
            for future in as_completed(waiting):
                found[waiting[future]] += future.result()
        except KeyboardInterrupt:  # what is known until then is told
            pool.shutdown(cancel_futures=True)
    counts = {name: Counter(row.kind for row in rows) for name, rows in found.items()}
    kinds = sorted({kind for row in counts.values() for kind in row})
    table = Table("subject", *kinds, "slowest", box=None)
    for name, rows in found.items():
        table.add_row(
            name, *(str(counts[name][k]) for k in kinds), f"{max((row.seconds for row in rows), default=0):.1f} s"
        )
    console.print(table)
    failed = [(name, row) for name, rows in found.items() for row in rows if row.kind not in ("answer", "error")]
    for name, row in failed:
        console.print(f"{name} {row.case}: {row.kind}: {row.where}", markup=False)
    console.print(f"{sum(map(len, found.values()))} cases, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

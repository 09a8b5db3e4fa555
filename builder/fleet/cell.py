"""One cell, as one person would do it by hand: the steps are those of `bespoke patch`, `check` and `try`.

    the kernel and its source -> has it the fix? -> patch -> check on each CPU model -> try in a guest

A cell is a pure function of its order. What it needs comes from the cache or the archives, and whoever does it gets
the same bytes. What fails for a reason that is not the order's (a full disk, a missing program, the network) is
`trouble`: it is no result, and somebody else may have more luck.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from builder.acquire.cache import published, scratch
from builder.acquire.compile import Compiling
from builder.acquire.packages import fetch_kernel, installed_kernel
from builder.acquire.source import SourceTree
from builder.acquire.sources import find_source
from builder.acquire.standing import standing
from builder.acquire.whole import write_whole
from builder.binary.kernel import Kernel
from builder.compose.owner import Objects
from builder.emit.patched import Patched
from builder.errors import Allowed, BespokeError, GuestError, InputError, RefusedError, ToolError
from builder.fleet.kernels import FleetKernel
from builder.fleet.orders import CellResult, Order, code_digest
from builder.image.trial import TrialPlan, trial
from builder.pipeline import ModulePlan, patch, source_target
from builder.preflight.check import Checker

#: the refusals that say of a file that this kernel has nothing of it
NOT_BUILT: Final = frozenset({"patch-not-built", "patch-not-linked"})

#: kernels that a process keeps at hand, with their simulations (some hundred MB each)
AT_HAND: Final = 2

# A simulated kernel is changed while a module is in it: one at a time, where a worker has several threads.
_simulating = threading.Lock()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A kernel whose source is ready in some cache; a cell that runs beside another cache makes it so there too.

    `size` is what lies in that cache for it, in bytes, and `seconds` what it took: nearly none where it was there.
    """

    kernel: FleetKernel
    size: int
    seconds: float

    def __sizeof__(self) -> int:
        # What a scheduler asks in order to find out where work on it had better be done.
        return self.size


def prepare(kernel: FleetKernel) -> Prepared:
    """Have a kernel, its source and the list of its objects in the cache.

    Where that cannot be, it is each of its cells that finds out why, and has the reason in its result.
    """
    started = time.monotonic()
    try:
        opened = _open(kernel)
        with _source(str(opened.path), opened.sha256).objects():
            return Prepared(kernel, PREPARED_SIZE, time.monotonic() - started)
    except (BespokeError, OSError, MemoryError):
        return Prepared(kernel, 0, time.monotonic() - started)


#: bytes that a prepared source takes: 1.5 GB for Linux 6.1, 1.8 GB for 6.12
PREPARED_SIZE: Final = 1_700_000_000


def work(order: Order, prepared: Prepared, jobs: int = 1) -> CellResult:
    """Do one order, compiling `jobs` objects at once; whatever happens is in the result."""
    done = _Done(order)
    try:
        if code_digest() != order.code:
            raise ToolError("the program here is of another version than the one that asks for it")
        result = _cell(replace(order, kernel=prepared.kernel), done, jobs)
    except RefusedError as refused:
        rows = tuple(row.as_json() for row in refused.refusals)
        codes = {row.code for row in refused.refusals}
        result = done.result(
            "not-built" if codes <= NOT_BUILT else "refused",
            "; ".join(f"{row.code}: {row.symbol}" for row in refused.refusals),
            functions=tuple(refused.functions["changed"]),
            refusals=rows,
            warnings=tuple(row.as_json() for row in refused.warnings),
        )
    except (ToolError, GuestError, OSError, MemoryError) as error:
        result = done.result("trouble", f"{error or type(error).__name__}")
    except BespokeError as error:
        result = done.result("error", str(error))
    except Exception as error:
        result = done.result("error", f"a defect in bespoke: {type(error).__name__}: {error}")
    return result


def _cell(order: Order, done: _Done, jobs: int) -> CellResult:
    with done.phase("kernel"):
        kernel = _open(order.kernel)
        tree = _source(str(kernel.path), kernel.sha256)
    with scratch("fleet") as folder:
        files = _files(order, folder)
        with done.phase("apply"):
            stands = standing(files, tree.root)
        if stands.applied:
            return done.result("has-it")
        if stands.misfit:
            return done.result("no-fit", stands.misfit)
        with done.phase("patch"):
            made = _patch(order, kernel, tree, files, jobs)
    done.warnings = tuple(row.as_json() for row in made.warnings)
    if made.module is None:
        return done.result("unchanged", "; ".join(f"{w.code}: {w.symbol}" for w in made.warnings))
    content = made.module.content
    with done.phase("check"):
        found = _check(order, kernel, content, done)
    if order.trial and not found:
        with done.phase("try"):
            found = _try(order, kernel, content, done)
    if found:
        return done.result("unsound", "; ".join(found), functions=made.functions)
    return done.result(
        "shipped",
        ", ".join(made.functions),
        functions=made.functions,
        module=content,
        manifest=made.module.manifest.as_json(),
    )


@dataclass(slots=True)
class _Done:
    """What is known of a cell while it is worked on."""

    order: Order
    phases: dict[str, float] = field(default_factory=dict)
    warnings: tuple[dict[str, Any], ...] = ()
    checks: list[dict[str, Any]] = field(default_factory=list)
    trial: dict[str, Any] | None = None

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = round(time.monotonic() - started, 3)

    def result(self, verdict: str, detail: str = "", **more: Any) -> CellResult:
        known: dict[str, Any] = {
            "warnings": self.warnings,
            "checks": tuple(self.checks),
            "trial": self.trial,
            "phases": dict(self.phases),
            "worker": f"{socket.gethostname()}:{os.getpid()}",
        }
        return CellResult(self.order.key, self.order.fix, self.order.kernel.name, verdict, detail, **(known | more))


def _files(order: Order, folder: Path) -> list[Path]:
    """The patches as files of their own names, which messages have."""
    files = []
    for number, text in enumerate(order.patches):
        files.append(folder / str(number) / text.name)
        write_whole(files[-1], text.content)
    return files


def _patch(order: Order, kernel: Kernel, tree: SourceTree, files: list[Path], jobs: int) -> Patched:
    plan = ModulePlan(order.fix, replace=order.replace, allowed=Allowed.parse(order.allow))
    return patch(files, tree, _objects(str(kernel.path), kernel.sha256), plan, Compiling(jobs=jobs))


def _check(order: Order, kernel: Kernel, module: bytes, done: _Done) -> list[str]:
    """What stands against loading the module, on all of the CPU models."""
    if not order.cpus:
        return []
    with _simulating:
        report = _checker(str(kernel.path), kernel.sha256).check(module, order.cpus)
    found = [*report.refusals, *report.problems]
    done.checks += [{"cpu": cpu.cpu, "patched": dict(cpu.counts)} for cpu in report.cpus]
    return [f"check: {finding.code}: {finding.message}" for finding in found]


def _try(order: Order, kernel: Kernel, module: bytes, done: _Done) -> list[str]:
    """What went wrong in the guest; the answers of the commands are kept."""
    report = trial(module, kernel, TrialPlan(commands=order.run, load=order.load))
    commands = [
        {"command": ran.command, **{phase: answer.output for phase, answer in ran.answers.items()}}
        for ran in report.commands
    ]
    done.trial = {"seconds": round(report.seconds, 1), "warnings": list(report.warnings), "commands": commands}
    return [f"try: {report.failure}"] if report.failure else []


def _open(wanted: FleetKernel) -> Kernel:
    """The kernel, which is of the version that is wanted."""
    if wanted.sha256:
        return _opened(str(_image(wanted)))
    if not wanted.version and installed_kernel(wanted.release) is not None:
        return _opened(wanted.release)
    return _opened(str(fetch_kernel(wanted.release, wanted.version or None).image))


def _image(wanted: FleetKernel) -> Path:
    """The file of a kernel that came by its content, in the cache, with its configuration beside it."""

    def make(place: Path) -> None:
        if wanted.files is None:
            raise InputError("its image did not come with it", where=wanted.name)
        if hashlib.sha256(wanted.files.image).hexdigest() != wanted.sha256:
            raise InputError("its image is another one", where=wanted.name)
        write_whole(place / f"vmlinuz-{wanted.release}", wanted.files.image)
        write_whole(place / f"config-{wanted.release}", wanted.files.config)

    return published("images", wanted.sha256, make) / f"vmlinuz-{wanted.release}"


@functools.lru_cache(AT_HAND)
def _source(path: str, sha256: str) -> SourceTree:
    """The kernel's source, looked for damage once by each process, as `bespoke patch --each` does it once."""
    return find_source(None, source_target(_opened(path)))


@functools.lru_cache(AT_HAND)
def _opened(path: str) -> Kernel:
    return Kernel.open(path)


@functools.lru_cache(AT_HAND)
def _objects(path: str, sha256: str) -> Objects:
    """The kernel's objects, for all cells of it; by the content of the image, too."""
    return Objects(_opened(path))


@functools.lru_cache(AT_HAND)
def _checker(path: str, sha256: str) -> Checker:
    return Checker(_opened(path))

"""The front door: `from builder import Kernel, SimulatedKernel, Guest, diff, build, patch, check, load`.

The functions take what a person has at hand (paths, the name of a release, `CODE:SYMBOL` texts) and return the frozen
values that the long paths below `builder.pipeline`, `builder.preflight` and `builder.load` work with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from builder import pipeline
from builder.acquire.compile import Compiling
from builder.acquire.patchfile import read_patch
from builder.acquire.shifts import shifts_of
from builder.acquire.sources import find_source
from builder.binary.kernel import Kernel
from builder.compose.outcome import Diff
from builder.compose.owner import Objects
from builder.emit import Module, module_name
from builder.emit.patched import Patched
from builder.errors import Allowed
from builder.image.derive import derive_state
from builder.image.simulated import SimulatedKernel
from builder.load.boot import boot
from builder.load.livepatch import disable_patch
from builder.load.loader import unload_module
from builder.pipeline import ModulePlan, source_target
from builder.preflight.check import Checker, CheckReport

StrPath = str | Path


def diff(old: StrPath, new: StrPath, *, source_diff: StrPath | None = None, allow: Iterable[str] = ()) -> Diff:
    """What changed between two objects, and whether it can ship.

    `source_diff` is the patch between their sources, which proves numbers that are only lines where the objects have no
    debug information; `allow` are `CODE:SYMBOL` texts, as of `--allow`.

    The `Diff` has `verdict` ("changed", "unchanged" or "refused"), `changed` (names of functions), `judged.refusals`
    and `judged.warnings` (tuples of `Refusal`), and `as_json()`, the document of `bespoke diff --json`. A refused
    change is no error here.

    Raises InputError for what is no object of a kernel, UnknownError for something in it that no rule is known for.
    """
    shifts = shifts_of(read_patch(Path(source_diff))) if source_diff is not None else ()
    return pipeline.diff(Path(old), Path(new), shifts=shifts, allowed=Allowed.parse(allow))


def build(
    changes: Diff | Sequence[Diff],
    kernel: Kernel | StrPath,
    *,
    name: str = "livepatch",
    modules: Mapping[str, StrPath] | None = None,
    inside: str | None = None,
    replace: bool = False,
    on: StrPath | None = None,
    allow: Iterable[str] = (),
) -> Module | None:
    """One module from compared pairs for a kernel (or the name of one); None where nothing has to ship.

    `modules` are files of modules that are to be patched, by name, where the kernel's own tree has none; `inside` names
    the owner of the code where it is not plain ("vmlinux" or a module). `replace` and `on` are as of the command.

    The `Module` has `name`, `content` (the bytes of X.ko) and `manifest` (what it replaces and what it is bound to).
    The same inputs give the same bytes.

    Raises RefusedError with all reasons why it cannot ship, KernelError for a kernel that cannot be a target, ToolError
    without GNU `as`.
    """
    pairs = [changes] if isinstance(changes, Diff) else list(changes)
    plan = ModulePlan(module_name(name), replace, Path(on) if on is not None else None, Allowed.parse(allow))
    return pipeline.build(pairs, _objects(kernel, modules), plan, inside=inside)


def patch(
    patches: StrPath | Sequence[StrPath],
    kernel: Kernel | StrPath,
    *,
    name: str = "livepatch",
    source: str | None = None,
    modules: Mapping[str, StrPath] | None = None,
    replace: bool = False,
    jobs: int | None = None,
    allow: Iterable[str] = (),
) -> Patched:
    """One module from source patches, applied one on the other; only what they change is compiled, before and after.

    `source` is a source tree, a tarball, a package or a release; by default that of the kernel's own package, which is
    fetched and prepared once. `jobs` is how many objects are compiled at once (default: one for each CPU).

    The `Patched` has `module` (None where nothing that runs changed), `diffs` (one for each object) and `objects` (what
    was compiled from what).

    Raises InputError for a patch that does not fit, RefusedError as `build` and for files that no livepatch carries,
    ToolError for a compiler that fails.
    """
    places = [patches] if isinstance(patches, str | Path) else list(patches)
    allowed = Allowed.parse(allow)
    objects = _objects(kernel, modules)
    tree = find_source(source, source_target(objects.kernel), allowed=allowed)
    plan = ModulePlan(module_name(name), replace, None, allowed)
    return pipeline.patch([Path(place) for place in places], tree, objects, plan, Compiling(jobs=jobs))


def check(
    module: Module | StrPath | bytes,
    kernel: Kernel | StrPath,
    *,
    cpus: Sequence[str] = ("max",),
    modules: Mapping[str, StrPath] | None = None,
) -> CheckReport:
    """Load any module into a simulated kernel, on each CPU model (as QEMU names it), and say what stands against it.

    The `CheckReport` has `kernel_accepts`, `refusals` and `problems` (tuples of `Finding`: code, message, errno),
    `replaced`, `bindings`, `taints`, and `as_json()`, the document of `bespoke check --json`.

    Raises InputError where the file is no module at all.
    """
    content = module.content if isinstance(module, Module) else module
    return Checker(_kernel(kernel), _paths(modules)).check(content, cpus)


def simulate(kernel: Kernel | StrPath, cpu: str = "max") -> SimulatedKernel:
    """A kernel in memory at its real addresses, patched as early boot patches it on a CPU model.

    `SimulatedKernel.call(FUNCTION, *arguments)` executes a function; `.value` of the result is the 64 bits of RAX, and
    `.int32` the value of an `int`. Raises UsageError for an unknown CPU model.
    """
    found = _kernel(kernel)
    return boot(found, derive_state(found, cpu))


def unload(name: str, kernel: SimulatedKernel) -> None:
    """Disable a livepatch and take it out of a simulated kernel: every byte of code is as before. LoadError where it is
    not there, or in use."""
    if name in kernel.modules and any(row.module == name for row in kernel.livepatches):
        disable_patch(kernel, name)
    unload_module(kernel, name)


def _kernel(kernel: Kernel | StrPath) -> Kernel:
    return kernel if isinstance(kernel, Kernel) else Kernel.open(kernel)


def _objects(kernel: Kernel | StrPath, modules: Mapping[str, StrPath] | None) -> Objects:
    return Objects(_kernel(kernel), _paths(modules))


def _paths(modules: Mapping[str, StrPath] | None) -> dict[str, Path]:
    return {name: Path(path) for name, path in (modules or {}).items()}

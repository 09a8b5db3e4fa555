"""What is asked, part by part."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from builder.acquire.packages import fetch_kernel, newest_kernel
from samples.fixes import PATCHES
from samples.objects import TARGET_NAME, target_objects, vmlinux_objects
from tests.results.recording import LOADED, Case, RecordError, Run
from tests.running.pairs import ACCEPTED, RELEASE, module_name, places

KINDS: Final = {"conformance": "conformance/x86_64", "corpus": "corpus/pairs", "running": "running-6.1.0-50/pairs"}
SERIES: Final = ("6.1", "6.12")
SEED: Final = 1
MODULE: Final = "fix.ko"
PAGE: Final = "page.html"
CHECKED: Final = ".json.xz"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the pairs are, where the modules of other parts have been kept, and how many of a kernel's own to check."""

    data: Path
    folder: Path
    modules: int = 200


def diff_cases(plan: Plan) -> list[Case]:
    """Every shared pair, compared."""
    return [
        Case(
            f"diff/{kind}-{place.name}",
            _pair(place),
            (
                Run(("diff", "old.o", "new.o", "--json", "--html", PAGE), ".json", {PAGE: ".html.xz"}),
                Run(("diff", "old.o", "new.o")),
            ),
        )
        for kind, below in KINDS.items()
        for place in sorted((plan.data / below).glob("*"))
        if place.is_dir()
    ]


def tree_cases(plan: Plan) -> list[Case]:
    """All shared pairs as one tree, each also as an object that did not change: one by one, and two at once."""
    inputs: dict[str, Path] = {}
    for case in diff_cases(plan):
        old, new = (case.inputs[name] for name in ("old.o", "new.o"))
        name = f"{case.name.partition('/')[2]}.o"
        inputs |= {f"old/{name}": old, f"new/{name}": new, f"old/same/{name}": old, f"new/same/{name}": old}
    runs = (
        Run(("diff", "old", "new", "--json", "--html", PAGE), ".json.xz", {PAGE: ".html.xz"}),
        Run(("diff", "old", "new", "-j", "2", "--json"), ".two.json.xz"),
        Run(("diff", "old", "new", "-j", "2", "--html", PAGE), files={PAGE: ".html.xz"}),
    )
    return [Case("trees/pairs", inputs, runs)]


def build_cases(plan: Plan) -> list[Case]:
    """Every pair of the running kernel, as it is, and once more with its refusal accepted where that makes sense."""
    fetch_kernel(RELEASE)
    cases = []
    for name, place in places(plan.data).items():
        cases.append(_building(f"build/{name}", _pair(place), RELEASE, module_name(name)))
        if name in ACCEPTED:
            accept = ("--allow", ":".join(ACCEPTED[name]))
            cases.append(_building(f"build/{name}-allowed", _pair(place), RELEASE, module_name(name), accept))
    return cases


def sample_cases(plan: Plan) -> list[Case]:
    """What the samples are compiled to, built; one of them is refused."""
    cases = []
    for series in SERIES:
        release = _newest(series)
        for title, made in {
            "target": target_objects(release),
            "moved-labels": target_objects(release, version="moved-labels"),
            "own-key": target_objects(release, own_key=True),
        }.items():
            inputs = {"old.o": made.old, "new.o": made.new, made.module.name: made.module}
            named = {TARGET_NAME: made.module.name}
            cases.append(_building(f"samples/{title}-{series}", inputs, release, title, objects=named))
    release = _newest("6.1")
    pair = vmlinux_objects(release)
    cases.append(_building("samples/proc-version-6.1", {"old.o": pair.old, "new.o": pair.new}, release, "version"))
    return cases


def patch_cases(plan: Plan) -> list[Case]:
    """The patches of `samples/patches`, from source."""
    release = _newest("6.1")
    return [
        _making(
            f"patches/{path.stem}",
            {path.name: path},
            ("patch", path.name, "--kernel", release, "-o", MODULE, "--name", f"fix_{path.stem.replace('-', '_')}"),
            release,
        )
        for path in sorted(PATCHES.glob("*.patch"))
    ]


def check_cases(plan: Plan) -> list[Case]:
    """What `build`, `samples` and `patches` have kept, a kernel's own modules, and the kernels themselves, booted.

    What was kept is also checked against a kernel of the other series, which has much to say against it.
    """
    cases = []
    release, other = map(_newest, SERIES)
    for case in (*build_cases(plan), *sample_cases(plan), *patch_cases(plan)):
        module, name = plan.folder / f"{case.name}.ko", case.name.replace("/", "-")
        if module.is_file():
            cases.append(_checking(f"check/{name}", module, case.kernel, case))
            wrong = release if case.kernel == other else other
            cases.append(_checking(f"check/elsewhere/{name}", module, wrong, case, load=False))
    root = fetch_kernel(release).modules
    paths = sorted(path for path in root.rglob("*.ko*") if path.suffix in (".ko", ".xz", ".zst", ".gz"))
    for path in sorted(random.Random(SEED).sample(paths, min(plan.modules, len(paths)))):
        where = "__".join(path.relative_to(root).with_suffix("").parts)
        cases.append(_checking(f"check/tree/{where}", path, release))
    for name in (RELEASE, *map(_newest, SERIES)):
        cases.append(Case(f"check/kernel/{name}", {}, (Run((name,), ".sections.txt", program=LOADED),), name))
    return cases


PARTS: Final[Mapping[str, Callable[[Plan], list[Case]]]] = {
    "diff": diff_cases,
    "trees": tree_cases,
    "build": build_cases,
    "samples": sample_cases,
    "patches": patch_cases,
    "check": check_cases,
}
"""In this order: `check` is about the modules of the others."""


@cache
def _newest(series: str) -> str:
    release = newest_kernel(series)
    fetch_kernel(release)
    return release


def _pair(place: Path) -> dict[str, Path]:
    return {"old.o": place / "orig.o", "new.o": place / "patched.o"}


def _building(
    name: str,
    inputs: Mapping[str, Path],
    release: str,
    module: str,
    more: Sequence[str] = (),
    objects: Mapping[str, str] | None = None,
) -> Case:
    words = ["build", "old.o", "new.o", "--kernel", release, "-o", MODULE, "--name", module, *more]
    words += [word for owner, path in (objects or {}).items() for word in ("--object", f"{owner}={path}")]
    return _making(name, inputs, words, release, objects)


def _making(
    name: str, inputs: Mapping[str, Path], words: Sequence[str], release: str, objects: Mapping[str, str] | None = None
) -> Case:
    """A command that makes a module: once for a program, with the page, and once for people."""
    runs = (
        Run((*words, "--json", "--html", PAGE), ".json", {MODULE: ".ko", PAGE: ".html.xz"}),
        Run(words, files={MODULE: ".ko"}),
    )
    return Case(name, inputs, runs, release, dict(objects or {}))


def _checking(name: str, module: Path, release: str, made: Case | None = None, *, load: bool = True) -> Case:
    """A module checked, and loaded; one of ours (`made`) also for people, with the modules that it was built with."""
    if made is None:
        inputs, objects = {module.name: module}, list[str]()
    else:
        inputs = {MODULE: module, **{file: made.inputs[file] for file in made.objects.values()}}
        objects = [f"{owner}={file}" for owner, file in made.objects.items()]
    first = next(iter(inputs))
    words = ["check", first, "--kernel", release, *(f"--object={text}" for text in objects)]
    runs = [Run((*words, "--json"), CHECKED), *([Run(words)] if made else [])]
    runs += [Run((release, first, *objects), ".sections.txt", program=LOADED)] if load else []
    return Case(name, inputs, runs, release)


def planned(parts: Sequence[str]) -> list[str]:
    """The parts that are named (none: all), in the order in which they build on each other."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise RecordError(f"there are the parts {', '.join(PARTS)}", where=unknown[0])
    return [part for part in PARTS if not parts or part in parts]

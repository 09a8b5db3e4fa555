"""Compile the samples for one kernel release; what comes out is cached, never kept in the project.

The old object of a pair must be exactly the code that runs, so the target's
`.ko` is linked from the very object that is then compared; and both versions
are compiled in one directory, because file names are part of an object.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.cache import cache_root, published
from builder.acquire.outside import fetched_compiler
from builder.acquire.packages import HeadersTree, fetch_headers
from builder.acquire.pairs import ObjectPair
from builder.acquire.patch import prepare_patch
from builder.acquire.patchfile import apply_all, read_patch
from builder.acquire.source import fetch_source
from builder.acquire.tools import need, run

HERE = Path(__file__).resolve().parent
TARGET = HERE / "target"
TARGET_NAME = "bespoke_target"
VMLINUX_PATCH = HERE / "vmlinux/proc-version.patch"


@dataclass(frozen=True, slots=True)
class TargetObjects:
    """The loadable sample: `module` is what a guest loads, `old` the object it was linked from."""

    release: str
    module: Path
    old: Path
    new: Path


def target_objects(release: str, *, own_key: bool = False, version: str = "next-version") -> TargetObjects:
    """The target sample compiled against the distribution's headers of `release`.

    `version` is the patch that makes the new object of the old one, in `target/`.

    With `own_key` its jump label is on a key of the module itself.

    Raises `ToolError` for a missing compiler or a failed compilation, `InputError` where there are no such headers.
    """
    headers = fetch_headers(release)
    variant = "own-key" if own_key else "target" if version == "next-version" else version

    def make(place: Path) -> None:
        _compile_target(headers, place, own_key=own_key, version=version)

    root = published("samples", f"{variant}-{release}-{_fingerprint(TARGET, headers.version)}", make)
    return TargetObjects(release=release, module=root / f"{TARGET_NAME}.ko", old=root / "old.o", new=root / "new.o")


def _compile_target(headers: HeadersTree, place: Path, *, own_key: bool, version: str) -> None:
    need(["make"], purpose="compiling the target sample")
    work = place / "work"
    shutil.copytree(TARGET, work)
    # The 6.12 headers carry a vmlinux with BTF, so kbuild would ask for pahole; a target needs no BTF.
    command = ["make", "-s", "-C", str(headers.build), f"M={work}", "CONFIG_DEBUG_INFO_BTF_MODULES="]
    # Of two places to compile in, the later one is looked at first: what is made is the same in every cache.
    command.append(f"KCFLAGS=-ffile-prefix-map={cache_root()}=cache -ffile-prefix-map={work}=target")
    command += [*fetched_compiler(headers.build, headers.release), *(["OWN_KEY=1"] if own_key else [])]
    run([*command, "modules"])
    os.replace(work / f"{TARGET_NAME}.ko", place / f"{TARGET_NAME}.ko")
    shutil.copy(work / f"{TARGET_NAME}.o", place / "old.o")
    apply_patch(TARGET / f"{version}.patch", work)
    run([*command, "modules"])
    os.replace(work / f"{TARGET_NAME}.o", place / "new.o")
    shutil.rmtree(work)


def apply_patch(patch: Path, tree: Path) -> None:
    """Apply a patch to the files under `tree`, wholly or not at all; `InputError` where it does not fit."""
    changed = apply_all(read_patch(patch), lambda path: (tree / path).read_bytes()).files
    for path, content in changed.items():
        if content is not None:
            (tree / path).write_bytes(content)


def vmlinux_objects(release: str) -> ObjectPair:
    """`fs/proc/version.o` of exactly the kernel of `release`, before and after the sample's patch.

    The first call prepares the distribution's source (150 MB to download, about a minute).
    """
    found = prepare_patch([VMLINUX_PATCH], fetch_source(release))
    (pair,) = found.pairs
    return pair


def _fingerprint(sources: Path, *others: str) -> str:
    """Sixteen digits that change with the content of `sources`, this file or `others`."""
    digest = hashlib.sha256("\0".join(others).encode())
    for path in sorted([*sources.rglob("*"), Path(__file__)]):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]

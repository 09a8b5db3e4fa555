"""What `--source` may name: a package, a release, a tarball, a directory; nothing means the kernel's own package.

Whatever it is becomes a prepared tree in the cache (see `source`). A directory
is copied there and never written to: the copy follows it from run to run by the
sizes and times of its files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire import apt
from builder.acquire.cache import cache_path, cache_root, locked, remove_tree
from builder.acquire.packages import cached_kernel, fetch_kernel, installed_kernel, kernel_groups
from builder.acquire.preparing import STAMP, prepare
from builder.acquire.source import (
    FOLDERS,
    INCLUDED,
    INCLUDES,
    LISTING,
    SourceTree,
    accepted,
    fetch_source,
    prepared,
    tree_identity,
    unpack_archive,
    unpack_package,
)
from builder.acquire.toolchain import Compiler, banner_compiler, find_compiler, read_config, without_program
from builder.acquire.tools import ended
from builder.acquire.tree_state import disturbed
from builder.acquire.whole import write_whole
from builder.errors import NOTHING, Allowed, InputError, Refusal, RefusedError, UsageError

log = logging.getLogger("bespoke.acquire")

#: what a build leaves in a tree, and what is no source
_PRODUCT = re.compile(
    r".*\.(o|a|ko|mod|mod\.c|cmd|order|symvers|d|i|lst|su|gcno|dwo|s\.tmp|so|so\.dbg|patch\.orig|rej)|"
    r"(.*/)?(\..*\.cmd|\.tmp_.*|modules\.(order|builtin|builtin\.modinfo)|\.config(\.old)?|"
    r"vmlinux(\.(o|a|bin|map|symvers|unstripped))?|System\.map|TAGS|tags|cscope\..*)|"
    r"(include/(generated|config)|arch/[^/]+/include/generated|\.git|\.bespoke|debian)/.*"
)


@dataclass(frozen=True, slots=True)
class SourceTarget:
    """The kernel that objects are compiled for.

    `release` is what `uname -r` says there; `config` its configuration, where it
    is at hand; `banner` its `linux_banner`, which names the compiler and the
    package's version.
    """

    release: str
    config: Path | None = None
    banner: str = ""

    @property
    def package_version(self) -> str | None:
        """Debian's version of the package, from "... Debian 6.1.176-1 (2026-01-01)" in the banner."""
        match = re.search(r" Debian (\d\S*) \(", self.banner)
        return match[1] if match else None


def find_source(spec: str | None, target: SourceTarget, *, allowed: Allowed = NOTHING) -> SourceTree:
    """The prepared source tree that `spec` names, configured and compiled as `target` is.

    `spec`: None for the target's own package; `linux-source-6.1` (of the version
    that the kernel was built from) or `linux-source-6.1=VERSION`; `linux` for the
    series of the kernel; a release such as `6.1.0-50-amd64`; a tarball; a
    directory. Raises `InputError` for anything else, `RefusedError` (code
    `compiler-differs`) for another compiler unless `allowed`.
    """
    config = target.config or _config_of(target, spec)
    compiler = _compiler(target, config, allowed)
    if spec is None:
        return fetch_source(target.release, target.package_version, allowed=allowed)
    path = Path(spec)
    if path.is_dir():
        return accepted(_directory(path.resolve(), target.release, config, compiler), allowed)
    if path.is_file():
        identity = tree_identity(f"{path.name}_{apt.sha256_of(path)[:16]}", target.release, compiler)
        tree = prepared(identity, target.release, config, compiler, lambda root: unpack_archive(path, root))
        return accepted(tree, allowed)
    if "/" in spec:
        raise InputError("no such file or directory", where=spec)
    name, _, version = spec.partition("=")
    own = f"linux-source-{'.'.join(target.release.split('.')[:2])}"
    if name in ("linux", "linux-source"):
        name = own  # Debian's source package, or the package of its newest: what is meant is the kernel's
    if not name.startswith("linux-source-"):
        other = fetch_kernel(spec)
        name, version = f"linux-source-{'.'.join(spec.split('.')[:2])}", other.version
    groups = kernel_groups(target.release)
    if not version:
        # Of several versions the one that the kernel was built from.
        version = (target.package_version if name == own else None) or apt.lookup(name, groups=groups).version
    identity = tree_identity(f"{name}_{version}", target.release, compiler)
    tree = prepared(
        identity, target.release, config, compiler, lambda root: unpack_package(apt.lookup(name, version, groups), root)
    )
    return accepted(tree, allowed)


def _config_of(target: SourceTarget, spec: str | None) -> Path:
    """The release's configuration: installed, cached, from a directory that is configured, or downloaded."""
    for kernel in (installed_kernel(target.release), cached_kernel(target.release)):
        if kernel is not None and kernel.config.is_file():
            return kernel.config
    if spec is not None and (own := Path(spec) / ".config").is_file():
        return own
    return fetch_kernel(target.release, target.package_version).config


def _compiler(target: SourceTarget, config: Path, allowed: Allowed) -> Compiler:
    compiler = find_compiler(read_config(config), allowed, kernel_groups(target.release))
    if target.banner:
        built_by = banner_compiler(target.banner)
        if without_program(built_by) != without_program(compiler.version):
            refusal = Refusal(
                code="compiler-differs",
                symbol=compiler.command,
                section="",
                fatal=False,
                message=f"the kernel's banner names {built_by}, here is {compiler.version}",
                advice="install that compiler, or accept another one",
            )
            if not allowed.covers(refusal):
                raise RefusedError([refusal])
    return compiler


def _directory(path: Path, release: str, config: Path, compiler: Compiler) -> SourceTree:
    """The prepared copy of a directory, brought up to date with it."""
    if not (path / "Kconfig").is_file() or not (path / "Makefile").is_file():
        raise InputError("no kernel source (no Kconfig and Makefile at its top)", where=path)
    if cache_root() in (path, *path.parents):
        raise UsageError("this is the cache's own copy: name the release instead", where=path)
    now = _files(path)
    place = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    identity = tree_identity(f"{path.name}_{place}", release, compiler)
    with locked(f"use-{identity}", inherited=True):
        root = cache_path("source", identity)
        record = root / ".bespoke/files.json"
        before: dict[str, list[int]] = json.loads(record.read_text()) if record.is_file() else {}
        if before and before != now and not disturbed(root):
            _follow(path, root, before, now)
            prepare(root, release, compiler)

        def unpack(root: Path) -> None:
            log.info("copying %d files of %s", len(now), path)
            for name in now:
                _copy(path / name, root / name)

        tree = prepared(identity, release, config, compiler, unpack, alone=True)
        write_whole(record, json.dumps(now))
        content = hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()[:16]
        tree = tree.named(f"{tree.identity}_{content}")
        write_whole(tree.place / ".bespoke/identity", tree.identity)
    return tree


_LISTS: Final = re.compile(r"(.*/)?((Kconfig|Kbuild|Makefile)[^/]*|[^/]*\.mk)")
"""Files that say which objects there are, and how they are compiled."""


def _follow(path: Path, root: Path, before: dict[str, list[int]], now: dict[str, list[int]]) -> None:
    """Bring the prepared copy at `root` up to date; a copy that this is interrupted in is made anew."""
    changed = [name for name in now if now[name] != before.get(name)]
    gone = before.keys() - now.keys()
    log.info("%d files of %s have changed", len(changed) + len(gone), path)
    (root / STAMP).unlink()
    for name in gone:
        (root / name).unlink(missing_ok=True)
    for name in changed:
        _copy(path / name, root / name)
    structure = gone or any(name not in before for name in changed)
    if structure or any(_LISTS.fullmatch(name) for name in changed):
        (root / LISTING).unlink(missing_ok=True)
        remove_tree(root / FOLDERS)
    for name in (INCLUDES, INCLUDED):
        (root / name).unlink(missing_ok=True)


def _files(path: Path) -> dict[str, list[int]]:
    """Name -> [size, modification time in ns] of every source file of a directory."""
    found: dict[str, list[int]] = {}
    for name in _names(path):
        if _PRODUCT.fullmatch(name):
            continue
        try:
            state = os.lstat(path / name)
        except FileNotFoundError:
            continue
        found[name] = [state.st_size, state.st_mtime_ns]
    return found


def _names(path: Path) -> Iterator[str]:
    """What git knows of or does not ignore; where this is no work tree's top, all files."""
    if (path / ".git").exists() and shutil.which("git"):
        listed = ended(["git", "-C", path, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        if listed.status == 0:
            yield from sorted(set(os.fsdecode(listed.out).split("\0")) - {""})
            return
    for folder, folders, files in os.walk(path):
        folders.sort()
        here = os.path.relpath(folder, path)
        for name in sorted(files + [name for name in folders if os.path.islink(f"{folder}/{name}")]):
            yield os.path.normpath(f"{here}/{name}")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)

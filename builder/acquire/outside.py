"""The source of an out-of-tree module: both versions compiled by its own makefile against the kernel's headers.

The source is copied and never written to. Old and new are made in the same directory, one after the other, so that
nothing but the patch tells them apart; paths in the code are those of the source's own directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.cache import cache_root, clean_name, published
from builder.acquire.makefile import added_names
from builder.acquire.packages import fetch_headers, kernel_groups
from builder.acquire.pairs import ObjectPair, empty_object
from builder.acquire.patch import PatchObjects, accepted
from builder.acquire.patchfile import NO_CODE, FileChange, apply_all, judge, located, read_patch, refusal_row
from builder.acquire.preparing import EXTRA_FLAGS, processors
from builder.acquire.shifts import shifts_of
from builder.acquire.source import SourceTree
from builder.acquire.toolchain import Compiler, find_compiler, read_config
from builder.acquire.tools import run
from builder.errors import NOTHING, Allowed, InputError, Refusal, RefusedError, ToolError, UsageError

_LEFT_BEHIND = shutil.ignore_patterns(
    ".git", "*.o", "*.ko", "*.mod", "*.mod.c", ".*.cmd", "*.cmd", "*.a", "Module.symvers", "modules.order", ".tmp_*"
)
_MAKEFILE = re.compile(r"(.*/)?(Makefile|Kbuild)")


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """The directory of an out-of-tree module's source, `owners` the names of modules that are patched, and the
    kbuild directory of the kernel's `release`, called with `variables`."""

    root: Path
    owners: tuple[str, ...]
    release: str
    build: Path
    variables: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path, owners: Sequence[str], release: str) -> ModuleSource:
        """With the headers that are installed for the release, else those of the distribution.

        Raises UsageError for a directory without a makefile, and where no module is named.
        """
        if not any((root / name).is_file() for name in ("Kbuild", "Makefile")):
            raise UsageError(f"--module-source {root}: there is no makefile of a module (Kbuild, Makefile)")
        if not owners:
            raise UsageError("--module-source needs the module as it is loaded: --object NAME=PATH.ko")
        installed = Path("/lib/modules") / release / "build"
        if (installed / "Makefile").is_file():
            return cls(root.resolve(), tuple(owners), release, installed)
        build = fetch_headers(release).build
        return cls(root.resolve(), tuple(owners), release, build, fetched_compiler(build, release))


def fetched_compiler(build: Path, release: str) -> tuple[str, ...]:
    """Variables of make for a kbuild directory that was fetched: the compiler that its kernel was built with.

    None where this machine has that compiler, or it is not to be had: then the directory's own makefile says which.
    Raises ToolError where there is no compiler at all.
    """
    try:
        found = find_compiler(read_config(build / ".config"), groups=kernel_groups(release))
    except RefusedError:
        return ()
    return (f"CC={found.command}", f"LD={found.linker}") if found.linker else ()


def prepare_module(patches: Sequence[Path], source: ModuleSource, *, allowed: Allowed = NOTHING) -> PatchObjects:
    """Compile a module's source before and after `patches`, applied one on the other; a pair for each object of its
    that the patches change.

    Raises as `prepare_patch`; `InputError` where the makefile makes none of the modules, or does not compile.
    """
    changes = [
        located(change, lambda name: (source.root / name).exists()) for path in patches for change in read_patch(path)
    ]
    changed, followed, warnings = _changed(changes, source, allowed)
    config = read_config(source.build / ".config")
    compiler = config.get("CONFIG_CC_VERSION_TEXT", "")
    key = _fingerprint(source, changed, compiler)

    def make(place: Path) -> None:
        _compile(source, changed, place)

    place = published("outside", key, make)
    pairs = []
    for owner in source.owners:
        names = (place / f"{owner}.objects").read_text().split() if (place / f"{owner}.objects").is_file() else []
        if not names:
            raise InputError(f"its makefile makes no module {owner}", where=source.root)
        for name in names:
            old, new = place / "old" / name, place / "new" / name
            if old.read_bytes() != new.read_bytes():
                pairs.append(ObjectPair(path=name, owner=owner, old=old, new=new))
    tree = SourceTree(
        release=source.release,
        place=source.root,
        identity=f"{source.root.name} (out of tree)",
        kernel_version=source.release,
        compiler=Compiler(command="", version=compiler, expected=compiler),
        drift=(),
    )
    return PatchObjects(
        tree=tree,
        files=tuple(sorted(changed)),
        shifts=shifts_of(followed),
        considered=len(pairs),
        pairs=tuple(pairs),
        warnings=tuple(warnings),
        log=place / "log",
    )


def _changed(
    changes: Sequence[FileChange], source: ModuleSource, allowed: Allowed
) -> tuple[dict[str, bytes], tuple[FileChange, ...], list[Refusal]]:
    """The new content of each file, the changes as they stand in it, and warnings of what is left out."""

    def read(path: str) -> bytes | None:
        file = source.root / path
        return file.read_bytes() if file.is_file() else None

    kept: list[FileChange] = []
    rows: list[Refusal] = []
    for change in changes:
        may_be_new = change.path.endswith(".c") or _MAKEFILE.fullmatch(change.path) is not None
        refusal = None if may_be_new and change.kind in ("modified", "added") else judge(change)
        if NO_CODE.fullmatch(change.path):
            rows.append(refusal_row("patch-no-code", change.path, "is no part of any object: left out", ""))
        elif refusal is None:
            kept.append(change)
        else:
            rows += accepted([refusal], allowed)
    applied = apply_all(kept, read)
    for path, content in applied.files.items():
        if _MAKEFILE.fullmatch(path):
            texts = [(raw or b"").decode("utf-8", "surrogateescape") for raw in (read(path), content)]
            if added_names(*texts) is None:
                what = "changes how the module is built, which the one that runs already is"
                without = "leave the file out of the patch, or accept that its change is left out"
                rows += accepted([refusal_row("patch-makefile", path, what, without)], allowed)
                applied.files[path] = read(path) or b""
    rows += [refusal_row("patch-moved", path, f"has moved: {what}", "") for path, what in applied.moved]
    files = {path: content for path, content in applied.files.items() if content != read(path)}
    return files, applied.changes, rows


def _fingerprint(source: ModuleSource, changed: Mapping[str, bytes], compiler: str) -> str:
    digest = hashlib.sha256("\0".join([source.release, str(source.root), compiler, *source.owners]).encode())
    rows = {str(p.relative_to(source.root)): p for p in source.root.rglob("*") if p.is_file()}
    skipped = _LEFT_BEHIND(str(source.root), [Path(name).name for name in rows])
    for name, path in sorted(rows.items()):
        if path.name not in skipped and not name.startswith(".git/"):
            digest.update(f"\0{name}\0".encode("utf-8", "surrogateescape") + hashlib.sha256(path.read_bytes()).digest())
    for name, content in sorted(changed.items()):
        digest.update(f"\1{name}\0".encode("utf-8", "surrogateescape") + hashlib.sha256(content).digest())
    return f"{clean_name(source.owners[0])}-{digest.hexdigest()[:24]}"


def _compile(source: ModuleSource, changed: Mapping[str, bytes], place: Path) -> None:
    work = place / "work"
    shutil.copytree(source.root, work, ignore=_LEFT_BEHIND, symlinks=True)
    for side in ("old", "new"):
        if side == "new":
            for path, content in changed.items():
                target = work / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)  # another file, and a newer one, for make
                target.write_bytes(content)
        _make(source, work, place / "log")
        for owner in source.owners:
            names = _objects_of(owner, work, source.build)
            (place / f"{owner}.objects").write_text("\n".join(names))
            for name in names:
                kept = place / side / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(work / name, kept)
    for name in (n for owner in source.owners for n in (place / f"{owner}.objects").read_text().split()):
        if not (place / "old" / name).is_file():  # of a file that is new: nothing of it was there
            (place / "old" / name).parent.mkdir(parents=True, exist_ok=True)
            empty_object(place / "old" / name)
    shutil.rmtree(work)


def _make(source: ModuleSource, work: Path, log: Path) -> None:
    prefixes = f"-fmacro-prefix-map={work}={source.root} -fdebug-prefix-map={work}={source.root}"
    # A vmlinux beside the headers would have kbuild ask for pahole; what the module lacks is another module's.
    words: list[str | Path] = [
        "make",
        "-C",
        source.build,
        f"M={work}",
        f"-j{processors()}",
        f"KCFLAGS={EXTRA_FLAGS} {prefixes}",
    ]
    words += [*source.variables, "CONFIG_DEBUG_INFO_BTF_MODULES=", "KBUILD_MODPOST_WARN=1", "modules"]
    try:
        run(words, cwd=work, log=log)
    except ToolError as error:
        lasting = cache_root() / "logs" / "module-source.log"
        lasting.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, lasting)
        said = [line for line in log.read_text(errors="replace").splitlines() if "error:" in line]
        first = said[0].replace(f"{work}/", "") if said else error.message
        raise InputError(f"does not compile: {first} (log: {lasting})", where=source.root) from error


def _objects_of(owner: str, work: Path, build: Path) -> list[str]:
    """The objects that a module was linked from (`NAME.mod`, scripts/Makefile.build), by their paths in the source."""
    for listing in sorted(work.rglob("*.mod")):
        if listing.stem.replace("-", "_") != owner:
            continue
        places = [word for word in listing.read_text().split() if word.endswith(".o")]
        found = [next((p for p in (Path(w), work / w, build / w) if p.is_file()), None) for w in places]
        return [os.path.relpath(p, work) for p in found if p is not None]
    return []

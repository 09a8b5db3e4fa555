"""Where a release keeps its image and its modules, and how a module is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Final

from builder.acquire.apt import mended
from builder.acquire.bounds import read_input
from builder.binary.kernel.decompress import decompress
from builder.binary.kernel.places import SUFFIXES, module_name, module_places
from builder.errors import InputError, KernelError

#: what ends the name of a package with debug information
_DEBUG: Final = "-dbg"


def _roots(pattern: str, cache: Path) -> Iterator[Path]:
    """What `pattern` (below the root of a file system) matches: in `/`, then in each unpacked package.

    Of several unpacked versions of one release the one that was unpacked last comes first.
    """
    yield from sorted(Path("/").glob(pattern))
    found = (cache / "unpacked").glob(f"*/{pattern}")
    yield from sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def find_image(release: str, cache: Path) -> Path:
    """The image of a release name: installed, or in an unpacked package in the cache.

    Raises KernelError naming the places where it was looked for.
    """
    places = (
        f"boot/vmlinuz-{release}",
        f"lib/modules/{release}/vmlinuz",
        f"usr/lib/modules/{release}/vmlinuz",
        f"boot/vmlinux-{release}",
        f"usr/lib/debug/boot/vmlinux-{release}",
    )
    if release and "/" not in release and release not in (".", ".."):
        for place in places:
            for found in _roots(escape(place), cache):
                return mended(found)
    if release.endswith(_DEBUG):
        plain = release.removesuffix(_DEBUG)
        raise KernelError(
            f"a package of debug information, no release: name the image itself, {plain}, "
            f"or that which the package has, by its path (usr/lib/debug/boot/vmlinux-{plain})",
            where=release,
        )
    here = sorted({path.name.removeprefix("vmlinuz-") for path in _roots("boot/vmlinuz-*", cache)})
    raise KernelError(
        f"neither a file nor a release with an image: looked for /{', /'.join(places[:3])}, "
        f"and for the same in packages unpacked below {cache}, which have: {', '.join(here) or 'none'}",
        where=release or "(empty name)",
    )


def find_modules_root(image: Path, release: str, cache: Path) -> Path | None:
    """The module tree of a release, that beside the image first; None where there is none."""
    image = image.resolve()
    beside = [image.parent] if image.parent.name == release else []
    if image.parent.name == "boot":
        beside += [image.parent.parent / lib / release for lib in ("lib/modules", "usr/lib/modules")]
    for place in beside:
        if place.is_dir():
            return place
    for lib in ("lib/modules", "usr/lib/modules"):
        for found in _roots(escape(f"{lib}/{release}"), cache):
            if found.is_dir():
                return found
    return None


def absent_module(name: str, release: str, root: Path | None) -> str:
    """That the tree at `root`, if there is one, has no module `name`, and what helps."""
    if root is None:
        why = f"is not here, for there is no module tree of {release}"
    else:
        why = f"is not in the tree of {release} ({root})"
    return f"module {name} {why}; give its file (--object {name}=PATH)"


def list_modules(root: Path, folder: Path | None = None) -> dict[str, str]:
    """The place of every module below `root` by its name; of several the first of `module_places`."""
    found: dict[str, str] = {}
    for place, name in module_places(root, folder):
        found.setdefault(name, place)
    return found


def builtin_modules(root: Path | None) -> frozenset[str]:
    """The modules that are part of the image, as the tree's `modules.builtin` says; none without a tree."""
    path = root / "modules.builtin" if root is not None else None
    lines = path.read_text().splitlines() if path is not None and path.is_file() else []
    return frozenset(name for line in lines if (name := module_name(line)) is not None)


class ModuleFinder:
    """The files of a tree by the module's name (`-` and `_` are the same), for any number of names.

    Lists and tree are read once: a module may ask for thousands of others by name. What is found of the tree is kept
    in `folder`, if one is given.
    """

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        self._root = root
        self._folder = folder

    @cached_property
    def _listed(self) -> dict[str, list[str]]:
        """Name -> the places, without suffix, that the tree's own lists give."""
        found: dict[str, list[str]] = {}
        for listing in ("modules.dep", "modules.order"):
            try:
                lines = (self._root / listing).read_text().splitlines()
            except (OSError, UnicodeDecodeError):
                continue
            for line in lines:
                place = line.partition(":")[0]
                if (name := module_name(place)) is not None:
                    found.setdefault(name, []).append(place.partition(".ko")[0])
        return found

    @cached_property
    def _walked(self) -> dict[str, str]:
        return list_modules(self._root, self._folder)

    def find(self, name: str) -> Path | None:
        """The file of one module, by the lists where they name it; None where there is none."""
        wanted = module_name(f"{name.removesuffix('.ko')}.ko") or ""
        for stem in self._listed.get(wanted, ()):
            for suffix in SUFFIXES:
                if (path := self._root / (stem + suffix)).is_file():
                    return mended(path)
        found = self._walked.get(wanted)
        return mended(self._root / found) if found is not None else None


def read_module_bytes(path: Path) -> bytes:
    """The module in a `.ko`, `.ko.xz`, `.ko.zst` or `.ko.gz`; InputError where it cannot be read."""
    content = decompress(read_input(path), where=path)
    if not content.startswith(b"\x7fELF"):
        raise InputError("no ELF file, no module", where=path)
    return content

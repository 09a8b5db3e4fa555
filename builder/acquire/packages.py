"""A distribution's kernel by release name: image, headers, source, each from its own package.

`fetch_*` answer from the cache, else download (see `apt`); all of them may be
called by several processes at once.

Debian's scheme, as of bookworm and trixie: `linux-image-RELEASE` holds
/boot/{vmlinuz,config,System.map}-RELEASE and the module tree; from 6.18 on it
brings other packages together (`apt.parts`), and image and configuration lie
in the module tree. Without a signed package of that name the unsigned one will
do. The headers are `linux-headers-RELEASE` on top of `linux-headers-ABI-common`
and `linux-kbuild-*`; `linux-source-SERIES` is offered in each version that an
image is, and the image's version is in its banner ("... Debian 6.1.176-1 (...)").

A release is looked for in the suites that the machine's apt is configured with,
then in those that its name tells (`suites.groups_for`), or in a named one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.acquire import apt
from builder.acquire.cache import cache_path, cache_root, published, use_path
from builder.acquire.readymade import fetch_readymade
from builder.acquire.suites import OWN, Group, group_of, groups_for
from builder.acquire.tools import run
from builder.acquire.toolset import put_behind
from builder.acquire.whole import write_whole
from builder.errors import InputError, ToolError


@dataclass(frozen=True, slots=True)
class KernelTree:
    """A kernel package's files; `version` is the package's, empty when the kernel is just installed."""

    release: str
    version: str
    root: Path
    image: Path
    config: Path
    modules: Path


@dataclass(frozen=True, slots=True)
class HeadersTree:
    """A kbuild directory for out-of-tree modules: `make -C build M=DIR` works from the cache."""

    release: str
    version: str
    build: Path
    common: Path
    objtool: Path


def _kernel_tree(release: str, version: str, root: Path) -> KernelTree | None:
    modules = next(
        (root / top / "modules" / release for top in ("lib", "usr/lib") if (root / top / "modules" / release).is_dir()),
        None,
    )
    if modules is None:
        return None
    boot = root / "boot"
    places = ((boot / f"vmlinuz-{release}", boot / f"config-{release}"), (modules / "vmlinuz", modules / "config"))
    image, config = next((pair for pair in places if os.access(pair[0], os.R_OK)), (None, None))
    if image is None or config is None:
        return None
    return KernelTree(
        release=release,
        version=version,
        root=root,
        modules=modules,
        image=apt.mended(image),
        config=apt.mended(config),
    )


def installed_kernel(release: str) -> KernelTree | None:
    """The kernel `release` as it is installed on this machine (readable image and module tree), if it is."""
    return _kernel_tree(release, "", Path("/"))


def cached_kernel(release: str) -> KernelTree | None:
    """The kernel `release` in the cache, if it is there; never goes to the network."""
    found = _cached(release, None)
    return _kernel_tree(release, *found) if found else None


def _cached(release: str, version: str | None) -> tuple[str, Path] | None:
    return next((found for name in _image_packages(release) if (found := apt.cached(name, version))), None)


def kernel_groups(release: str, suite: str | None = None) -> tuple[Group, ...]:
    """Where what belongs to a kernel may come from: the suites that its image came from, or `suite`, then those of its
    name."""
    found = _cached(release, None)
    record = (found[1] / ".package").read_text().split() if found else []
    own = [Group(name) for name in record[3:]] or ([group_of(suite)] if suite else [])
    return tuple(dict.fromkeys((*own, *groups_for(release))))


def _image_packages(release: str) -> tuple[str, str]:
    """The packages that hold the image of a release: signed for secure boot, or not. Its code is the same."""
    return f"linux-image-{release}", f"linux-image-{release}-unsigned"


def fetch_kernel(release: str, version: str | None = None, *, suite: str | None = None) -> KernelTree:
    """The kernel package of `release` (such as the output of `uname -r`), from the cache or the archive.

    Raises `InputError` when no suite, or not `suite`, offers it, `ToolError` when apt fails.
    """
    found = _cached(release, version)
    if found is None:
        package = _image_package(release, version, _asked(release, suite))
        found = (package.version, apt.unpacked(package))
    tree = _kernel_tree(release, *found)
    if tree is None:
        raise InputError(f"the package holds no image and module tree for {release}", where=f"linux-image-{release}")
    return tree


def kernel_version(release: str, version: str | None = None, *, suite: str | None = None) -> str:
    """The version of the kernel package of `release`: as it is given, else as it is here, else the newest offered."""
    if version is not None:
        return version
    if (found := _cached(release, None)) is not None:
        return found[0]
    return _image_package(release, None, _asked(release, suite)).version


def kernel_config(release: str, version: str, *, suite: str | None = None) -> Path:
    """The configuration of the kernel package of `release`, of one that is not here without the image.

    Raises as `fetch_kernel`.
    """
    if _cached(release, version) is None:
        made = fetch_readymade(release, version, _asked(release, suite))
        if made is not None:
            return made / ".config"
    return fetch_kernel(release, version, suite=suite).config


def _asked(release: str, suite: str | None) -> Sequence[Group]:
    """Where the packages of a kernel that is not here are looked for: in `suite` alone, if that is given."""
    return (group_of(suite),) if suite else groups_for(release)


def _image_package(release: str, version: str | None, groups: Sequence[Group]) -> apt.Package:
    if not re.match(r"\d+\.\d+", release):
        raise _unknown_release(release, groups)
    name = f"linux-image-{release}"
    for group in groups:
        for package in (package for name in _image_packages(release) for package in apt.offered(name, group)):
            if version in (None, package.version):
                return package
    if any(apt.offered(name, group) for group in groups):
        return apt.lookup(name, version, groups)  # says which versions there are
    raise _unknown_release(release, groups)


def _unknown_release(release: str, groups: Sequence[Group]) -> InputError:
    name = f"linux-image-{release}"
    series = ".".join(release.split(".")[:2])
    nearby = _releases(re.escape(series), groups)
    if nearby:
        return InputError(f"no package of that name; offered of {series}: {nearby}", where=name)
    others = _releases(r"\d+\.\d+", groups) or "none"
    if not re.match(r"\d+\.\d+", release):
        return InputError(f"is no release; offered are: {others}", where=release or "(empty name)")
    return InputError(f"no package of that name; {_suite_hint(series, groups)}; offered are: {others}", where=name)


def _releases(series_pattern: str, groups: Sequence[Group]) -> str:
    names = dict.fromkeys(name for group in groups for name in _image_names(series_pattern, group))
    return ", ".join(name.removeprefix("linux-image-") for name in names)


def _image_names(series_pattern: str, group: Group = OWN) -> list[str]:
    """Real (not -dbg, -unsigned, meta) image packages of a series, generic flavour."""
    machine = re.escape(architecture())
    # Since 6.18 a meta package is called linux-image-MACHINE alone, and a candidate has no third number.
    exact = r"(\.\d[^-]*|\.0-[\w.]+)" if group.name != "experimental" else r"(\.\d[^-]*|\.0-[\w.]+)?"
    return apt.names(rf"linux-image-{series_pattern}{exact}-{machine}", group)


def _suite_hint(series: str, groups: Sequence[Group]) -> str:
    return (
        f"no package of Linux {series} in {apt.in_suites(groups)}: "
        "name the suite that has one (--suite NAME, such as NAME-backports or the next release)"
    )


def architecture() -> str:
    """Debian's name of this machine's architecture, such as `amd64`."""
    return run(["dpkg", "--print-architecture"]).strip()


def newest_kernel(series: str, *, suite: str | None = None) -> str:
    """The newest release offered of a series ("6.1", "7"), by a suite or the machine's, such as "6.1.0-50-amd64".

    Raises `InputError` that says which suites were asked when there is none.
    """
    group = group_of(suite) if suite else OWN
    if not re.fullmatch(r"\d+(\.\d+)?", series):
        raise InputError(f"{series!r} is no kernel series such as 6.1")
    pattern = re.escape(series) if "." in series else rf"{series}\.\d+"
    best = apt.newest_of(_image_names(pattern, group), group)
    if best is None:
        raise InputError(_suite_hint(series, (group,)))
    return best.name.removeprefix("linux-image-")


#: what a headers package is laid on top of
HEADERS_PARTS = (r"linux-headers-\S+-common(-[a-z]+)?", r"linux-kbuild-\S+")

#: how headers are laid out in the cache; what an earlier version of Bespoke laid out otherwise is made anew
_LAYOUT = 2


def fetch_headers(release: str) -> HeadersTree:
    """The headers of `release` as one usable kbuild directory in the cache.

    The packages refer to each other by absolute /usr/src and /usr/lib paths; in
    the cached copy these are relative, so nothing need be installed. The programs of
    another suite's come with the libraries that they were linked with.
    """
    name = f"linux-headers-{release}"
    cached = _cached_headers(release)
    if cached is not None:
        return cached
    main = apt.lookup(name, groups=kernel_groups(release))
    parts = [main, *(_dependency(main, pattern) for pattern in HEADERS_PARTS)]
    place = f"{name}_{main.version}_{_LAYOUT}"

    def make(root: Path) -> None:
        apt.unpack_all(parts, root)
        if main.group.name:
            libraries = re.findall(r"(?:^|,)\s*(lib\S+|zlib1g)", parts[-1].depends)
            apt.unpack_all(apt.closure(libraries, main.group), root)
            put_behind(root, cache_path("headers", place), [f"usr/lib/{parts[-1].name}"])
        for folder in (root / "usr/src").iterdir():
            _make_relative(root, folder)
        write_whole(root / ".package", f"{main.name}\n{main.version}\n{main.sha256}\n{main.group.name}\n")

    return _headers_tree(release, main.version, published("headers", place, make))


def _cached_headers(release: str) -> HeadersTree | None:
    name = f"linux-headers-{release}"
    records = (cache_root() / "headers").glob(f"{name}_*_{_LAYOUT}/.package")
    roots = {record.read_text().split()[1]: record.parent for record in records}
    if not roots:
        return None
    best = apt.newest(roots)
    use_path(roots[best])
    return _headers_tree(release, best, roots[best])


def _headers_tree(release: str, version: str, root: Path) -> HeadersTree:
    build = root / "usr/src" / f"linux-headers-{release}"
    common = [path for path in (root / "usr/src").glob("linux-headers-*-common*") if path.is_dir()]
    if not build.is_dir() or len(common) != 1:
        raise InputError("not laid out as Debian's kernel headers are", where=build)
    return HeadersTree(
        release=release, version=version, build=build, common=common[0], objtool=build / "tools/objtool/objtool"
    )


def _dependency(package: apt.Package, pattern: str) -> apt.Package:
    """The package that `package` depends on by a name that matches `pattern`, preferably of its version."""
    names = [m for m in re.findall(r"(?:^|,\s*)([a-z0-9.+~-]+)", package.depends) if re.fullmatch(pattern, m)]
    if not names:
        raise InputError(f"depends on no package like {pattern}", where=package.name)
    offered = apt.offered(names[0], package.group)
    same = [p for p in offered if p.version == package.version]
    if not offered:
        raise InputError(f"needs {names[0]}, which no configured suite offers", where=package.name)
    return (same or offered)[0]


def _make_relative(root: Path, folder: Path) -> None:
    """Point what refers to /usr/... at the copy below `root`, relatively (the root will be renamed)."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_symlink() and os.path.isabs(os.readlink(path)):
            goal = root / os.readlink(path).lstrip("/")
            path.unlink()
            path.symlink_to(os.path.relpath(goal, folder))
    makefile = folder / "Makefile"
    text = makefile.read_text()
    here = "$(dir $(abspath $(lastword $(MAKEFILE_LIST))))"
    text = re.sub(r"^include /usr/src/", f"include {here}../", text, flags=re.MULTILINE)
    # Those of 7.2 name an output directory beside the source.
    text = re.sub(r"^KBUILD_OUTPUT *:?= */usr/src/", f"KBUILD_OUTPUT := {here}../", text, flags=re.MULTILINE)
    write_whole(makefile, text)
    if re.search(r"^(include |KBUILD_OUTPUT *:?= *)/", text, flags=re.MULTILINE):
        raise ToolError("a Makefile includes an absolute path of a kind that is not known", where=makefile)

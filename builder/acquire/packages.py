"""A distribution's kernel by release name: image, headers, source, each from its own package.

`fetch_*` answer from the cache, else download (see `apt`); all of them may be
called by several processes at once.

Debian's scheme, as of bookworm and trixie: `linux-image-RELEASE` holds
/boot/{vmlinuz,config,System.map}-RELEASE and the module tree; the headers are
`linux-headers-RELEASE` on top of `linux-headers-ABI-common` and `linux-kbuild-*`;
`linux-source-SERIES` is offered in each version that an image is, and the
image's version is in its banner ("... Debian 6.1.176-1 (...)").
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from builder.acquire import apt
from builder.acquire.cache import cache_root, published
from builder.acquire.tools import run
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
    boot = root / "boot"
    modules = next(
        (root / top / "modules" / release for top in ("lib", "usr/lib") if (root / top / "modules" / release).is_dir()),
        None,
    )
    image = boot / f"vmlinuz-{release}"
    if modules is None or not os.access(image, os.R_OK):
        return None
    return KernelTree(
        release=release,
        version=version,
        root=root,
        modules=modules,
        image=apt.mended(image),
        config=apt.mended(boot / f"config-{release}"),
    )


def installed_kernel(release: str) -> KernelTree | None:
    """The kernel `release` as it is installed on this machine (readable image and module tree), if it is."""
    return _kernel_tree(release, "", Path("/"))


def cached_kernel(release: str) -> KernelTree | None:
    """The kernel `release` in the cache, if it is there; never goes to the network."""
    found = apt.cached(f"linux-image-{release}")
    return _kernel_tree(release, *found) if found else None


def fetch_kernel(release: str, version: str | None = None) -> KernelTree:
    """The kernel package of `release` (such as the output of `uname -r`), from the cache or the archive.

    Raises `InputError` when no configured suite offers it, `ToolError` when apt fails.
    """
    name = f"linux-image-{release}"
    found = apt.cached(name, version)
    if found is None:
        package = _image_package(release, version)
        found = (package.version, apt.unpacked(package))
    tree = _kernel_tree(release, *found)
    if tree is None:
        raise InputError(f"the package holds no image and module tree for {release}", where=name)
    return tree


def _image_package(release: str, version: str | None) -> apt.Package:
    name = f"linux-image-{release}"
    found = apt.offered(name)
    if found:
        return apt.lookup(name, version)
    series = ".".join(release.split(".")[:2])
    nearby = [n.removeprefix("linux-image-") for n in _image_names(re.escape(series))]
    if nearby:
        raise InputError(f"no package of that name; offered of {series}: {', '.join(nearby)}", where=name)
    others = ", ".join(n.removeprefix("linux-image-") for n in _image_names(r"\d+\.\d+")) or "none"
    if not re.match(r"\d+\.\d+", release):
        raise InputError(f"is no release; offered are: {others}", where=release or "(empty name)")
    raise InputError(f"no package of that name; {_suite_hint(series)}; offered are: {others}", where=name)


def _image_names(series_pattern: str) -> list[str]:
    """Real (not -dbg, -unsigned, meta) image packages of a series, generic flavour."""
    machine = re.escape(architecture())
    return apt.names(rf"linux-image-{series_pattern}(\.\d[^-]*|\.0-[\w.]+)-{machine}")


def _suite_hint(series: str) -> str:
    suites = ", ".join(apt.suites()) or "none"
    return (
        f"no suite that apt is configured with ({suites}) offers Linux {series}: "
        "add the suite that does (such as NAME-backports or the next release) to /etc/apt/sources.list.d"
    )


def architecture() -> str:
    """Debian's name of this machine's architecture, such as `amd64`."""
    return run(["dpkg", "--print-architecture"]).strip()


def newest_kernel(series: str) -> str:
    """The newest release offered of a series: "6.1" -> such as "6.1.0-50-amd64".

    Raises `InputError` that says which suites were asked when there is none.
    """
    if not re.fullmatch(r"\d+\.\d+", series):
        raise InputError(f"{series!r} is no kernel series such as 6.1")
    best = apt.newest_of(_image_names(re.escape(series)))
    if best is None:
        raise InputError(_suite_hint(series))
    return best.name.removeprefix("linux-image-")


#: what a headers package is laid on top of
HEADERS_PARTS = (r"linux-headers-\S+-common", r"linux-kbuild-\S+")


def fetch_headers(release: str) -> HeadersTree:
    """The headers of `release` as one usable kbuild directory in the cache.

    The packages refer to each other by absolute /usr/src and /usr/lib paths; in
    the cached copy these are relative, so nothing need be installed.
    """
    name = f"linux-headers-{release}"
    cached = _cached_headers(release)
    if cached is not None:
        return cached
    main = apt.lookup(name)
    parts = [main, *(_dependency(main, pattern) for pattern in HEADERS_PARTS)]

    def make(root: Path) -> None:
        apt.unpack_all(parts, root)
        for folder in (root / "usr/src").iterdir():
            _make_relative(root, folder)
        write_whole(root / ".package", f"{main.name}\n{main.version}\n{main.sha256}\n")

    return _headers_tree(release, main.version, published("headers", f"{name}_{main.version}", make))


def _cached_headers(release: str) -> HeadersTree | None:
    name = f"linux-headers-{release}"
    roots = {
        record.read_text().split()[1]: record.parent for record in (cache_root() / "headers").glob(f"{name}_*/.package")
    }
    if not roots:
        return None
    best = apt.newest(roots)
    return _headers_tree(release, best, roots[best])


def _headers_tree(release: str, version: str, root: Path) -> HeadersTree:
    build = root / "usr/src" / f"linux-headers-{release}"
    common = [path for path in (root / "usr/src").glob("linux-headers-*-common") if path.is_dir()]
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
    offered = apt.offered(names[0])
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
    write_whole(makefile, text)
    if re.search(r"^include /", text, flags=re.MULTILINE):
        raise ToolError("a Makefile includes an absolute path of a kind that is not known", where=makefile)

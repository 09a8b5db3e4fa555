"""Debian packages without root and without installation: look up, download, verify, unpack.

apt itself verifies the archive's signatures; the sha256 that its signed index
gives is compared here once more with the file that is unpacked. Versions are
always looked up, never written down.

Where the machine's package lists are empty or older than the mirror, and for
suites that it is not configured with (see `suites`), lists of our own are fetched
into the cache: that needs no root either.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

from builder.acquire import sums
from builder.acquire.cache import cache_root, locked, published, remove_tree, scratch, use, use_path
from builder.acquire.suites import OWN, Group, configured, fetching, options, refresh, refreshable
from builder.acquire.tools import ended, run
from builder.acquire.whole import write_whole
from builder.errors import InputError, MissingToolError, SpaceError, ToolError

log = logging.getLogger("bespoke.acquire")


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one binary package as the index of a group of suites describes it."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    depends: str
    group: Group = OWN

    @property
    def file_name(self) -> str:
        """`apt-get download` escapes the epoch's colon as %3a."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def compare_versions(a: str, b: str) -> int:
    """-1, 0 or 1 in dpkg's order of versions."""
    if a == b:
        return 0
    return -1 if ended(["dpkg", "--compare-versions", a, "lt", b]).status == 0 else 1


def newest(versions: Iterable[str]) -> str:
    """The greatest in dpkg's order; `ValueError` for none."""
    return max(versions, key=cmp_to_key(compare_versions))


def _stanzas(text: str) -> list[dict[str, str]]:
    stanzas: list[dict[str, str]] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", block, flags=re.MULTILINE))
        if "Package" in fields:
            stanzas.append(fields)
    return stanzas


def _show(*names: str, group: Group = OWN) -> list[Package]:
    try:
        with fetching(" or ".join(names[:3])):
            text = run(["apt-cache", *options(group), "show", "--", *names])
    except (MissingToolError, SpaceError):
        raise
    except ToolError:  # apt-cache fails for a name that it does not know
        return []
    return [_package(s, group) for s in _stanzas(text) if s.get("Package") in names and "SHA256" in s]


def _package(fields: dict[str, str], group: Group) -> Package:
    return Package(
        name=fields["Package"],
        version=fields["Version"],
        architecture=fields["Architecture"],
        sha256=fields["SHA256"],
        size=int(fields.get("Size", "0")),
        depends=fields.get("Depends", ""),
        group=group,
    )


def offered(name: str, group: Group = OWN) -> list[Package]:
    """All versions of `name` that a group of suites offers, newest first; empty if none.

    An unknown name makes the lists be fetched once, since they may be absent or old.
    """
    found = _show(name, group=group)
    if not found and refreshable(group):
        refresh(name, group)
        found = _show(name, group=group)
    order = cmp_to_key(compare_versions)
    return sorted(found, key=lambda package: order(package.version), reverse=True)


def newest_of(names: Sequence[str], group: Group = OWN) -> Package | None:
    """The package of the greatest version among all that are offered of `names`, by one question to apt."""
    found = _show(*names, group=group) if names else []
    best = newest(package.version for package in found) if found else None
    return next((package for package in found if package.version == best), None)


def lookup(name: str, version: str | None = None, groups: Sequence[Group] = (OWN,)) -> Package:
    """The package `name` at `version` (default: the newest offered) in the first group that has it.

    A version that is offered no longer, or where nobody can be asked, is had as long as it lies in the cache.
    Raises `InputError` that names the package, the version and what is offered instead, `ToolError` as `offered`.
    """
    try:
        return _offered(name, version, groups)
    except (InputError, ToolError):
        if version is not None and (found := _downloaded(name, version, groups[0])) is not None:
            return found
        raise


def _offered(name: str, version: str | None, groups: Sequence[Group]) -> Package:
    seen: list[str] = []
    for group in groups:
        found = offered(name, group)
        for package in found:
            if version in (None, package.version):
                return package
        seen += [package.version for package in found]
    if seen:
        raise InputError(
            f"version {version} is no longer offered (offered: {', '.join(dict.fromkeys(seen))})", where=name
        )
    raise InputError(f"no package of that name in {in_suites(groups)}", where=name)


def _downloaded(name: str, version: str, group: Group) -> Package | None:
    """The package that lies in the cache, by what its own file says: that had the sha256 of the signed index."""
    place = cache_root() / "packages"
    for deb in place.glob(f"{name}_{version.replace(':', '%3a')}_*.deb"):
        for fields in _stanzas(ended(["dpkg-deb", "-f", deb]).out.decode(errors="replace")):
            return _package({**fields, "SHA256": sha256_of(deb)}, group)
    return None


def in_suites(groups: Sequence[Group]) -> str:
    """The suites of some groups, for messages."""
    others = [group.name for group in groups if group.name]
    own = f"the configured suites ({', '.join(configured()) or 'none'})"
    return own + (f", nor in {', '.join(others)}" if others else "") if OWN in groups else ", ".join(others)


def names(pattern: str, group: Group = OWN) -> list[str]:
    """Names of all packages of a group that match the regular expression `pattern` in full."""

    def listed() -> list[str]:
        text = run(["apt-cache", *options(group), "pkgnames"])
        return sorted(name for name in text.split() if re.fullmatch(pattern, name))

    found = listed()
    if not found and refreshable(group):
        refresh("a package of this kernel series", group)
        found = listed()
    return found


def closure(specs: Sequence[str], group: Group) -> list[Package]:
    """The packages that `specs` (NAME=VERSION or NAME) need to run where nothing is installed, themselves among them.

    Raises `ToolError`, as `apt-get install` says it, where a version or a dependency is not offered.
    """
    if refreshable(group):
        refresh(specs[0], group)
    words = ["apt-get", *options(group), "-q", "-s", "--no-install-recommends", "install", *specs]
    with fetching(" and ".join(specs[:3])):
        said = run(words)
    chosen = dict(re.findall(r"^Inst (\S+) \((\S+) ", said, flags=re.MULTILINE))
    found = {(package.name, package.version): package for package in _show(*chosen, group=group)}
    return [found[pair] for pair in chosen.items()]


def offers(names: Sequence[str], group: Group = OWN) -> list[tuple[str, str, str]]:
    """(name, version, suite) of every version of `names` that a group offers, by one question to apt."""
    text = run(["apt-cache", *options(group), "madison", "--", *names])
    rows = ([cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.count("|") == 2)
    return [
        (name, version, match[1])
        for name, version, place in rows
        # Where it is offered: "URI SUITE/COMPONENT ARCHITECTURE Packages"; a source package ends in "Sources".
        if (match := re.fullmatch(r"\S+ ([^\s/]+)/\S* \S+ Packages", place))
    ]


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def download(package: Package) -> Path:
    """The verified .deb of `package` in the cache, downloaded where it is absent or damaged."""
    return download_all([package])[0]


def download_all(packages: Sequence[Package]) -> list[Path]:
    """The verified .deb of each package in the cache; what is absent or damaged of a group is fetched at once."""
    with ExitStack() as held:
        for name in sorted({package.file_name for package in packages}):
            held.enter_context(locked(f"deb-{name}"))
        missing = [package for package in packages if not _is_here(package)]
        for group in dict.fromkeys(package.group for package in missing):
            wanted = [package for package in missing if package.group == group]
            with scratch("download") as work:
                _apt_download(wanted, group, work)
                for package in wanted:
                    got = work / package.file_name
                    if not got.is_file():
                        raise ToolError("apt-get download did not bring it", where=package.file_name)
                    if sha256_of(got) != package.sha256:
                        raise ToolError("the downloaded file has not the sha256 of the signed index", where=got.name)
                    os.replace(got, _place(package))
    return [_place(package) for package in packages]


def _place(package: Package) -> Path:
    use("packages", package.file_name)
    target = cache_root() / "packages" / package.file_name
    target.parent.mkdir(exist_ok=True)
    return target


def _is_here(package: Package) -> bool:
    target = _place(package)
    if not target.is_file():
        return False
    if sha256_of(target) == package.sha256:
        return True
    log.warning("%s is damaged: downloading it again", target.name)
    return False


def _apt_download(packages: Sequence[Package], group: Group, work: Path) -> None:
    size = sum(package.size for package in packages) / 1e6
    more = f" and {len(packages) - 1} more" if len(packages) > 1 else ""
    log.info("downloading %s %s%s (%.0f MB)", packages[0].name, packages[0].version, more, size)
    specs = [f"{package.name}={package.version}" for package in packages]
    wanted = f"{packages[0].name} {packages[0].version}{more}"

    def attempt() -> None:
        sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        with fetching(wanted):
            run(["apt-get", *options(group), *sandbox, "-q", "-o", "Acquire::Retries=3", "download", *specs], cwd=work)

    try:
        attempt()
    except (MissingToolError, SpaceError):
        raise
    except ToolError:
        # Old lists name files that the mirror has dropped.
        if not refreshable(group):
            raise
        refresh(wanted, group)
        attempt()


def fetch_source_file(name: str, version: str, ending: str, group: Group, work: Path) -> Path:
    """The one file of a source package whose name ends so (`.debian.tar.xz`), verified, in the directory `work`.

    Raises `ToolError` that names the package, or the file, that is not to be had.
    """
    sources = Group(group.name, source=True)
    if refreshable(sources):
        refresh(f"the source package {name}", sources)
    words = [*options(sources), "-q"]
    with fetching(f"the source package {name} {version}"):
        listed = run(["apt-get", *words, "source", "--print-uris", "--only-source", f"{name}={version}"])
    rows = [line.split() for line in listed.splitlines() if line.startswith("'")]
    for uri, file, _, checksum in (row for row in rows if row[1].endswith(ending)):
        # An archive may list more versions than it serves.
        with fetching(f"{file} of the source package, which {group.name} lists,"):
            run(["/usr/lib/apt/apt-helper", *words, "download-file", uri.strip("'"), work / file, checksum])
        return work / file
    raise ToolError(f"has no file that ends in {ending}", where=f"{name} {version}")


def unpack_all(packages: Sequence[Package], root: Path) -> None:
    """Unpack the files of all `packages` below the directory `root` (`dpkg-deb -x`; no scripts run)."""
    for deb in download_all(packages):
        log.info("unpacking %s", deb.name)
        run(["dpkg-deb", "-x", deb, root])


def parts(package: Package) -> list[Package]:
    """The other packages that hold the rest of `package`: what it depends on in its own version, and so on.

    Debian's kernels since 6.18 are linux-base-R, linux-binary-R and linux-modules-R, which linux-image-R brings
    together; of alternatives (`signed | unsigned`) the first that is offered. One that is no longer offered is
    left out, with a warning: what that had is found missing when it is used.
    """
    found: dict[str, Package] = {}
    waiting = [package]
    while waiting:
        for choice in waiting.pop().depends.split(","):
            exact = [m[1] for m in re.finditer(r"([a-z0-9.+~-]+) \(= ([^)]+)\)", choice) if m[2] == package.version]
            if not exact or found.keys() & exact:
                continue
            there = {
                other.name: other for other in _show(*exact, group=package.group) if other.version == package.version
            }
            if not there:
                log.warning("%s is without %s, which is no longer offered", package.name, " or ".join(exact))
                continue
            other = there[next(name for name in exact if name in there)]
            found[other.name] = other
            waiting.append(other)
    return list(found.values())


def unpacked(package: Package) -> Path:
    """The cached directory with the files of `package` and its `parts`; `.package` names it, its sha256, its group."""

    def make(root: Path) -> None:
        unpack_all([package, *parts(package)], root)
        write_whole(root / ".package", f"{package.name}\n{package.version}\n{package.sha256}\n{package.group.name}\n")

    return published("unpacked", f"{package.name}_{package.version}", make)


def mended(path: Path) -> Path:
    """`path` as it was unpacked; where it is damaged its package is unpacked again, with a note.

    A path that is in no package of the cache is given back. Raises ToolError and InputError as `lookup` and `download`.
    """
    root = next((parent for parent in path.parents if parent.parent.name == "unpacked"), None)
    if root is None or sums.damaged(root, [os.path.relpath(path, root)]) is None:
        return path
    sums.note_damage(path)
    name, version, _, *group = (root / ".package").read_text().split()
    package = lookup(name, version, [Group(group[0] if group else "")])
    remove_tree(root)
    unpacked(package)
    return path


def cached(name: str, version: str | None = None) -> tuple[str, Path] | None:
    """(version, directory) of the newest unpacked `name` in the cache, without asking apt."""
    found: dict[str, Path] = {}
    for record in (cache_root() / "unpacked").glob(f"{name}_*/.package"):
        lines = record.read_text().split()
        if len(lines) in (3, 4) and lines[0] == name and version in (None, lines[1]):
            found[lines[1]] = record.parent
    if not found:
        return None
    best = newest(found)
    use_path(found[best])
    return best, found[best]

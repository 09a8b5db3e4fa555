"""Debian packages without root and without installation: look up, download, verify, unpack.

apt itself verifies the archive's signatures; the sha256 that its signed index
gives is compared here once more with the file that is unpacked. Versions are
always looked up, never written down.

Where the machine's package lists are empty or older than the mirror, lists of
our own are fetched into the cache from the machine's configured sources: that
needs no root either.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

from builder.acquire import sums
from builder.acquire.cache import cache_root, locked, published, remove_tree, scratch
from builder.acquire.tools import ended, run
from builder.acquire.whole import write_whole
from builder.errors import InputError, MissingToolError, SpaceError, ToolError

log = logging.getLogger("bespoke.acquire")


@dataclass(frozen=True, slots=True)
class Package:
    """One version of one binary package as apt's index describes it."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    depends: str

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


def _private() -> list[str]:
    """apt options that keep its lists and its state in the cache (no root, no system lock)."""
    base = cache_root() / "apt"
    for part in ("lists/partial", "archives/partial"):
        (base / part).mkdir(parents=True, exist_ok=True)
    pairs = {
        "Dir::State::Lists": f"{base}/lists",
        "Dir::Cache": str(base),
        "Dir::Cache::archives": f"{base}/archives",
        "Debug::NoLocking": "true",
        # The sandbox user cannot read below a private home directory.
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }
    return [word for key, value in pairs.items() if value for word in ("-o", f"{key}={value}")]


HELP = (
    "with a network once it is, and is in the cache from then on; or name what is here: --kernel FILE, "
    "--source DIRECTORY or TARBALL"
)


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    """Say of a failure of apt's, or that there is none, what is missing for it and what helps."""
    try:
        yield
    except SpaceError:
        raise
    except MissingToolError as error:
        raise MissingToolError(f"{what} cannot be fetched: {error.message}; {HELP}") from error
    except ToolError as error:
        raise ToolError(f"{what} cannot be fetched: {_reason(error.message)}; {HELP}") from error


def _reason(said: str) -> str:
    """The first error of an apt program, without the marks and addresses that only apt's own reader needs."""
    text = re.sub(r"^apt-\w+ failed \([^)]*\): ", "", said).partition(" | ")[0]
    return re.sub(r"^[EW]: (Failed to fetch \S+\s+)?", "", text).strip()


#: seconds for which lists of our own count as current: a name that they lack is not asked for again
LISTS_CURRENT = 3600.0


def _stamp() -> float:
    """When our own lists were fetched (seconds since the epoch), 0 if never."""
    try:
        return (cache_root() / "apt" / "fetched").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _options() -> list[str]:
    """The lists in use: the machine's or our own, whichever were fetched later."""
    system = Path("/var/lib/apt/lists")
    return _private() if _stamp() > (system.stat().st_mtime if system.is_dir() else 0.0) else []


def _refreshable() -> bool:
    return time.time() - _stamp() > LISTS_CURRENT


def refresh(wanted: str) -> None:
    """Fetch the package lists of the machine's configured sources into the cache, for what is `wanted`."""
    with locked("apt-lists"):
        if not _refreshable():
            return
        log.info("fetching the package lists")
        words = ["apt-get", *_private(), "-q", "-o", "Acquire::Languages=none"]
        with _fetching(f"{wanted} is not here, and the list of packages"):
            run([*words, "update"], timeout=900)
            if not any((cache_root() / "apt" / "lists").glob("*_Packages*")):
                # What failed (a full disk, no network) is a mere warning by default.
                run([*words, "-o", "APT::Update::Error-Mode=any", "update"], timeout=900)
                raise ToolError("no archive is configured")
        write_whole(cache_root() / "apt" / "fetched", "")


def _stanzas(text: str) -> list[dict[str, str]]:
    stanzas: list[dict[str, str]] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): *(.*)$", block, flags=re.MULTILINE))
        if "Package" in fields:
            stanzas.append(fields)
    return stanzas


def _show(*names: str) -> list[Package]:
    try:
        with _fetching(" or ".join(names)):
            text = run(["apt-cache", *_options(), "show", "--", *names])
    except (MissingToolError, SpaceError):
        raise
    except ToolError:  # apt-cache fails for a name that it does not know
        return []
    return [
        Package(
            name=s["Package"],
            version=s["Version"],
            architecture=s["Architecture"],
            sha256=s["SHA256"],
            size=int(s.get("Size", "0")),
            depends=s.get("Depends", ""),
        )
        for s in _stanzas(text)
        if s.get("Package") in names and "SHA256" in s
    ]


def offered(name: str) -> list[Package]:
    """All versions of `name` that the configured archives offer, newest first; empty if none.

    An unknown name makes the lists be fetched once, since they may be absent or old.
    """
    found = _show(name)
    if not found and _refreshable():
        refresh(name)
        found = _show(name)
    order = cmp_to_key(compare_versions)
    return sorted(found, key=lambda package: order(package.version), reverse=True)


def newest_of(names: Sequence[str]) -> Package | None:
    """The package of the greatest version among all that are offered of `names`, by one question to apt."""
    found = _show(*names) if names else []
    best = newest(package.version for package in found) if found else None
    return next((package for package in found if package.version == best), None)


def lookup(name: str, version: str | None = None) -> Package:
    """The package `name` at `version` (default: the newest offered).

    Raises `InputError` that names the package, the version and what is offered instead.
    """
    found = offered(name)
    if version is None and found:
        return found[0]
    for package in found:
        if package.version == version:
            return package
    if found:
        others = ", ".join(dict.fromkeys(p.version for p in found))
        raise InputError(f"version {version} is no longer offered (offered: {others})", where=name)
    raise InputError(f"no package of that name in the configured suites ({', '.join(suites()) or 'none'})", where=name)


def names(pattern: str) -> list[str]:
    """Names of all offered packages that match the regular expression `pattern` in full."""

    def listed() -> list[str]:
        text = run(["apt-cache", *_options(), "pkgnames"])
        return sorted(name for name in text.split() if re.fullmatch(pattern, name))

    found = listed()
    if not found and _refreshable():
        refresh("a package of this kernel series")
        found = listed()
    return found


def suites() -> list[str]:
    """The suites that apt is configured with (codenames), for messages."""
    text = run(["apt-cache", *_options(), "policy"])
    return sorted({m[1] for m in re.finditer(r"\bn=([^,\s]+)", text)})


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def download(package: Package) -> Path:
    """The verified .deb of `package` in the cache, downloaded where it is absent or damaged."""
    target = cache_root() / "packages" / package.file_name
    with locked(f"deb-{package.file_name}"):
        if target.is_file():
            if sha256_of(target) == package.sha256:
                return target
            log.warning("%s is damaged: downloading it again", target.name)
        target.parent.mkdir(exist_ok=True)
        with scratch("download") as work:
            got = _apt_download(package, work)
            if sha256_of(got) != package.sha256:
                raise ToolError("the downloaded file has not the sha256 of the signed index", where=got.name)
            os.replace(got, target)
    return target


def _apt_download(package: Package, work: Path) -> Path:
    log.info("downloading %s %s (%.0f MB)", package.name, package.version, package.size / 1e6)
    spec, wanted = f"{package.name}={package.version}", f"{package.name} {package.version}"

    def attempt() -> None:
        sandbox = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
        with _fetching(wanted):
            run(["apt-get", *_options(), *sandbox, "-q", "-o", "Acquire::Retries=3", "download", spec], cwd=work)

    try:
        attempt()
    except (MissingToolError, SpaceError):
        raise
    except ToolError:
        # Old lists name files that the mirror has dropped.
        if not _refreshable():
            raise
        refresh(wanted)
        attempt()
    files = list(work.glob("*.deb"))
    if len(files) != 1:
        raise ToolError(f"apt-get download brought {len(files)} files instead of one", where=spec)
    return files[0]


def unpack_all(packages: Sequence[Package], root: Path) -> None:
    """Unpack the files of all `packages` below the directory `root` (`dpkg-deb -x`; no scripts run)."""
    for package in packages:
        deb = download(package)
        log.info("unpacking %s", deb.name)
        run(["dpkg-deb", "-x", deb, root])


def unpacked(package: Package) -> Path:
    """The cached directory with the files of `package`; beside them, `.package` names it and its sha256."""

    def make(root: Path) -> None:
        unpack_all([package], root)
        write_whole(root / ".package", f"{package.name}\n{package.version}\n{package.sha256}\n")

    return published("unpacked", f"{package.name}_{package.version}", make)


def mended(path: Path) -> Path:
    """`path` as it was unpacked; where it is damaged its package is unpacked again, with a note.

    A path that is in no package of the cache is given back. Raises ToolError and InputError as `lookup` and `download`.
    """
    root = next((parent for parent in path.parents if parent.parent.name == "unpacked"), None)
    if root is None or sums.damaged(root, [os.path.relpath(path, root)]) is None:
        return path
    sums.note_damage(path)
    name, version, _ = (root / ".package").read_text().split()
    package = lookup(name, version)
    remove_tree(root)
    unpacked(package)
    return path


def cached(name: str, version: str | None = None) -> tuple[str, Path] | None:
    """(version, directory) of the newest unpacked `name` in the cache, without asking apt."""
    found: dict[str, Path] = {}
    for record in (cache_root() / "unpacked").glob(f"{name}_*/.package"):
        lines = record.read_text().split()
        if len(lines) == 3 and lines[0] == name and version in (None, lines[1]):
            found[lines[1]] = record.parent
    return (best := newest(found), found[best]) if found else None

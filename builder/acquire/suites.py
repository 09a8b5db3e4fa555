"""Which suites of the distribution are asked: those that the machine's apt is configured with, or a group of our own.

A group is a release of Debian with what belongs to it (updates, security, backports). Its lists lie in the cache,
fetched from the archive that the machine is configured with and verified by the same keys; the machine's own
configuration and lists are never touched.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from builder.acquire.cache import cache_root, clean_name, locked
from builder.acquire.tools import ended, run
from builder.acquire.whole import write_whole
from builder.errors import InputError, MissingToolError, SpaceError, ToolError

log = logging.getLogger("bespoke.acquire")

#: Debian's releases by number, as its kernels are named since 6.12 (`+deb13`); a new one gets a row
RELEASES: Final = {11: "bullseye", 12: "bookworm", 13: "trixie", 14: "forky"}

#: what has no number, the newest first
UNRELEASED: Final = ("sid", "experimental")

#: what belongs to a release beside the suite of its name
PARTS: Final = ("-updates", "-security", "-backports", "-proposed-updates")

#: the archive's keys where Debian's package puts them
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: seconds for which lists of our own count as current: a name that they lack is not asked for again
LISTS_CURRENT: Final = 3600.0

HELP: Final = (
    "with a network once it is, and is in the cache from then on; or name what is here: --kernel FILE, "
    "--source DIRECTORY or TARBALL"
)

#: what helps where the archive says that it has no such file (404)
NOT_SERVED: Final = (
    "the archive lists it and serves it no more, or not yet: another release of the series may be had "
    "(see `bespoke kernels`), or name what is here: --source DIRECTORY or TARBALL"
)


@dataclass(frozen=True, slots=True)
class Group:
    """Suites that are asked together; `name` is the release's, empty for those of the machine's own configuration.

    With `source` it is the source packages that are listed.
    """

    name: str = ""
    source: bool = False

    @property
    def suites(self) -> tuple[str, ...]:
        """In the order of its list of sources; none for the machine's."""
        if not self.name:
            return ()
        extra = PARTS if self.name not in UNRELEASED else ()
        base = ("sid",) if self.name == "experimental" else ()  # holds only what it has newer
        return (self.name, *(f"{self.name}{part}" for part in extra), *base)

    @property
    def folder(self) -> Path:
        """Where the lists of our own lie."""
        top = cache_root() / "apt"
        return top / ("sources" if self.source else "suites") / clean_name(self.name) if self.name else top


#: what the machine's apt is configured with
OWN: Final = Group()


def group_of(suite: str) -> Group:
    """The group that holds a suite such as `trixie`, `trixie-backports`, `sid`; InputError for an unknown name."""
    for name in (*RELEASES.values(), *UNRELEASED):
        if suite in Group(name).suites[: 1 + len(PARTS)] and (suite == name or name in RELEASES.values()):
            return Group(name)
    known = ", ".join((*RELEASES.values(), *UNRELEASED))
    raise InputError(f"is no suite that is known; known are {known}, with {', '.join(PARTS)}", where=suite)


def groups_for(release: str) -> tuple[Group, ...]:
    """Where a kernel may come from by its release name.

    Since 6.12 Debian's names say for which release it was built (`6.12.94+deb13-amd64`, `6.1.0-0.deb11.48-amd64`), and
    what is built for the release to come is in sid first. A name that says nothing may be of any, the machine's own
    suites first; they are first too where they are of that release.
    """
    named = re.search(r"[+.]deb(\d+)\b", release)
    known = list(RELEASES.items())
    if named is None:
        found = [*reversed(UNRELEASED), *(name for _, name in reversed(known))]
    elif (number := int(named[1])) == known[-1][0]:
        found = ["sid", RELEASES[number]]
    else:
        found = [RELEASES[number]] if number in RELEASES else []
    groups = tuple(map(Group, found))
    return (*groups, OWN) if named is not None and not {*found} & {*configured()} else (OWN, *groups)


@dataclass(frozen=True, slots=True)
class Archive:
    """Where the machine's apt gets Debian's packages, and its security updates, from."""

    main: str
    security: str


@cache
def archive() -> Archive:
    """The archives that the machine is configured with; ToolError where they are not Debian's."""
    form = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(LABEL)"
    rows = [line.split("|") for line in run(["apt-get", "indextargets", "--format", form]).splitlines()]
    names = {name for release in (*RELEASES.values(), *UNRELEASED) for name in Group(release).suites}
    names |= {"oldoldstable", "oldstable", "stable", "testing", "unstable"}
    places = {
        label.partition("-")[2].lower() or ("security" if suite.endswith("-security") else ""): place
        for made, place, suite, label in reversed(rows)
        if made == "Packages" and (suite in names or label.startswith("Debian"))
    }
    main = places.get("")
    if main is None:
        raise ToolError("apt is configured with no archive of Debian: other suites cannot be asked")
    beside = re.sub(r"debian/?$", "debian-security/", main)
    return Archive(main, places.get("security", beside))


def private(group: Group) -> list[str]:
    """apt options that keep its lists and its state in the cache (no root, no system lock).

    For a group of its own also the sources, and nothing that counts as installed.
    """
    base = group.folder
    for part in ("lists/partial", "archives/partial"):
        (base / part).mkdir(parents=True, exist_ok=True)
    pairs = {
        "Dir::State::Lists": f"{base}/lists",
        "Dir::Cache": str(base),
        "Dir::Cache::archives": f"{base}/archives",
        "Dir::Cache::pkgcache": "pkgcache.bin",
        "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
        "Debug::NoLocking": "true",
        # The sandbox user cannot read below a private home directory.
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
    }
    if group.name:
        if not (status := base / "status").exists():  # what apt has read is of no use to it once that is newer
            status.touch()
        pairs |= {
            "Dir::Etc::sourcelist": f"{base}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::status": f"{base}/status",
        }
    return [word for key, value in pairs.items() if value for word in ("-o", f"{key}={value}")]


@contextmanager
def fetching(what: str) -> Iterator[None]:
    """Say of a failure of apt's, or that there is none, what is missing for it and what helps."""
    try:
        yield
    except SpaceError:
        raise
    except MissingToolError as error:
        raise MissingToolError(f"{what} cannot be fetched: {error.message}; {HELP}") from error
    except ToolError as error:
        reason = _reason(error.message)
        helps = NOT_SERVED if re.match(r"404\b", reason) else HELP
        raise ToolError(f"{what} cannot be fetched: {reason}; {helps}") from error


def _reason(said: str) -> str:
    """The first error of an apt program, without the marks and addresses that only apt's own reader needs."""
    text = re.sub(r"^apt-\w+ failed \([^)]*\): ", "", said).partition(" | ")[0]
    return re.sub(r"^[EW]: (Failed to fetch \S+\s+)?", "", text).strip()


def _stamp(group: Group) -> float:
    """When our own lists were fetched (seconds since the epoch), 0 if never."""
    try:
        return (group.folder / "fetched").stat().st_mtime
    except FileNotFoundError:
        return 0.0


def options(group: Group) -> list[str]:
    """The lists in use: the group's; for the machine's suites its own or ours, whichever were fetched later."""
    if group.name:
        return private(group)
    system = Path("/var/lib/apt/lists")
    return private(group) if _stamp(group) > (system.stat().st_mtime if system.is_dir() else 0.0) else _parsed()


def _parsed() -> list[str]:
    """apt options that keep what it reads out of the machine's lists, where it is told to keep nothing, as it is in the
    images of containers: to read them takes half a second, and a first patch asks seven times."""
    if not _keeps_nothing():
        return []
    (place := cache_root() / "apt").mkdir(exist_ok=True)
    return ["-o", f"Dir::Cache::pkgcache={place}/machine.bin"]


@cache
def _keeps_nothing() -> bool:
    with suppress(MissingToolError):  # whoever then asks says what it is for
        return run(["apt-config", "dump", "Dir::Cache::pkgcache"]).strip() == 'Dir::Cache::pkgcache "";'
    return False


def refreshable(group: Group) -> bool:
    """Whether the lists of our own are old, or were never fetched."""
    return time.time() - _stamp(group) > LISTS_CURRENT


def refresh(wanted: str, group: Group = OWN) -> None:
    """Fetch the package lists of a group into the cache, for what is `wanted`."""
    with locked(f"apt-lists-{group.folder.parent.name}-{group.name}" if group.name else "apt-lists"):
        if not refreshable(group):
            return
        log.info("fetching the package lists%s", f" of {group.name}" if group.name else "")
        words = ["apt-get", *private(group), "-q", "-o", "Acquire::Languages=none"]
        with fetching(f"{wanted} is not here, and the list of packages"):
            if group.name:
                _update(words, group)
            else:
                run([*words, "update"], timeout=900)
            if not any((group.folder / "lists").glob("*_Sources*" if group.source else "*_Packages*")):
                # What failed (a full disk, no network) is a mere warning by default.
                run([*words, "-o", "APT::Update::Error-Mode=any", "update"], timeout=900)
                raise ToolError("no archive is configured")
        write_whole(group.folder / "fetched", "")


def _update(words: list[str], group: Group) -> None:
    """Fetch the lists of a group; the suites of it that the archive does not have are left out."""
    suites = list(group.suites)
    for _ in range(2):
        write_whole(group.folder / "sources.list", "".join(f"{_line(suite, group.source)}\n" for suite in suites))
        done = ended([*words, "update"], timeout=900)
        said = done.err.decode(errors="replace")
        gone = set(re.findall(r"repository '\S+ (\S+) Release' (?:does not have|no longer has) a Release file", said))
        if not gone:
            break
        suites = [suite for suite in suites if suite not in gone]
    if done.status:
        raise ToolError(f"apt-get failed (exit status {done.status}): {said.strip()}")


def _line(suite: str, source: bool) -> str:
    keys = f" [signed-by={KEYRING}]" if KEYRING.is_file() else ""
    place = archive().security if suite.endswith("-security") else archive().main
    return f"{'deb-src' if source else 'deb'}{keys} {place} {suite} main"


def configured() -> list[str]:
    """The suites that apt is configured with (codenames)."""
    text = run(["apt-cache", *options(OWN), "policy"])
    return sorted({m[1] for m in re.finditer(r"\bn=([^,\s]+)", text)})

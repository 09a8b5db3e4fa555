"""What the words of a fleet's `kernels` mean: releases, patterns, suites, the newest of one, images.

    6.1.0-50-amd64                      a release
    6.1.0-*-amd64                       a pattern: all that are offered, in every flavour that it fits
    bookworm-security                   all of a suite
    newest 2 of bookworm-security       the newest versions of a suite, in its standard flavour
    newest 2 6.1.0-*-rt-* of bookworm   the same, of what fits a pattern
    images/vmlinuz-6.1.7                a file, with its configuration (config-6.1.7) beside it

A release is pinned to the version of its package, an image to its content: what is a fleet's kernel today is the
same kernel for whoever works on it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key
from pathlib import Path
from typing import Final

from builder.acquire import apt
from builder.acquire.bounds import read_input
from builder.acquire.packages import architecture, cached_kernel, installed_kernel, kernel_groups
from builder.acquire.suites import OWN, Group, configured, group_of
from builder.binary.kernel import Kernel
from builder.errors import InputError


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """A kernel that is in no archive, by its content: the image and its configuration."""

    image: bytes = field(repr=False)
    config: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FleetKernel:
    """A kernel of a fleet; `name` is that of its folder in the output.

    `version` is its package's, empty for a kernel that is only installed; `sha256` that of an image file, empty for
    a package. What `files` holds is what these say, and no part of what the kernel is.
    """

    name: str
    release: str
    version: str = ""
    sha256: str = ""
    files: ImageFiles | None = field(default=None, compare=False, repr=False)


_NEWEST: Final = re.compile(r"newest (?P<count>\d+)(?: (?P<pattern>\S+))? of (?P<suite>\S+)")
_STANDARD: Final = re.compile(r"\d+\.\d+(\.\d[^-]*|\.0-[\w.]+)-[a-z0-9]+")
_RELEASE: Final = re.compile(r"\d+\.\d+\S*")


def resolve(words: Iterable[str]) -> tuple[FleetKernel, ...]:
    """The kernels that `words` name, each once, in their order; those of one word from the oldest version on.

    Raises InputError for a word that names none, and says what there is.
    """
    found: dict[str, FleetKernel] = {}
    for word in words:
        for kernel in _resolve(word):
            if (there := found.setdefault(kernel.name, kernel)) != kernel:
                raise InputError(f"is another kernel than the {there.name} that was named before", where=word)
    return tuple(found.values())


def _resolve(word: str) -> Sequence[FleetKernel]:
    if Path(word).is_file():
        return [_image(Path(word))]
    if "/" in word:
        raise InputError("no such file", where=word)
    if match := _NEWEST.fullmatch(word):
        releases = _of_suite(match["suite"])
        fits = re.compile(fnmatch.translate(match["pattern"])) if match["pattern"] else _STANDARD
        fitting = [kernel for kernel in releases if fits.fullmatch(kernel.release)]
        if not fitting or int(match["count"]) < 1:
            raise InputError("names no kernel", where=word)
        return fitting[-int(match["count"]) :]
    if word.startswith("newest"):
        raise InputError("is not as it should be: newest N [PATTERN] of SUITE", where=word)
    if any(sign in word for sign in "*?["):
        fitting = [kernel for kernel in _offered() if fnmatch.fnmatchcase(kernel.release, word)]
        if not fitting:
            names = ", ".join(kernel.release for kernel in _offered())
            raise InputError(f"fits no release that is offered: {names or 'none'}", where=word)
        return fitting
    return [_release(word)] if _RELEASE.fullmatch(word) else _of_suite(word)


def _release(release: str) -> FleetKernel:
    """A release as a single run would take it: from the cache, installed, or the newest version that is offered."""
    if installed_kernel(release) is not None:
        return FleetKernel(release, release)
    if (cached := cached_kernel(release)) is not None:
        return FleetKernel(release, release, cached.version)
    for group in kernel_groups(release):
        for name in (f"linux-image-{release}", f"linux-image-{release}-unsigned"):
            if offered := apt.offered(name, group):
                return FleetKernel(release, release, offered[0].version)
    names = ", ".join(kernel.release for kernel in _offered())
    raise InputError(f"no kernel of that name; offered are: {names or 'none'}", where=release)


def _image(path: Path) -> FleetKernel:
    kernel = Kernel.open(path)
    config = path.parent / f"config-{kernel.release}"
    if not config.is_file():
        raise InputError(f"its configuration is not beside it: {config.name}", where=path)
    content = read_input(path)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{kernel.release}-{sha256[:8]}"
    return FleetKernel(name, kernel.release, "", sha256, ImageFiles(content, read_input(config)))


def _of_suite(suite: str) -> list[FleetKernel]:
    own = suite in configured()
    try:
        here = _offered(suite, OWN if own else group_of(suite))
    except InputError as error:
        raise InputError(f"neither a release nor a file, and {error.message}", where=suite) from error
    if not here:
        raise InputError("no kernel is offered there", where=suite)
    return here


def _offered(suite: str | None = None, group: Group = OWN) -> list[FleetKernel]:
    """The kernels that a group of suites (or one of them) offers, of all flavours, from the oldest version on."""
    pattern = rf"linux-image-\d+\.\d+(\.\d[^-]*|\.0-[\w.]+)(-(cloud|rt|[a-z]+))?-{re.escape(architecture())}"
    names = apt.names(pattern, group)
    newest: dict[str, str] = {}
    for name, version, of in apt.offers(names, group) if names else ():
        release = name.removeprefix("linux-image-")
        if suite in (None, of):
            newest[release] = apt.newest([newest[release], version]) if release in newest else version
    order = cmp_to_key(apt.compare_versions)
    return [
        FleetKernel(release, release, newest[release])
        for release in sorted(newest, key=lambda r: (order(newest[r]), r))
    ]

"""The patch queue of a featureset: what the distribution's real-time kernels have beyond its source package.

`linux-source-SERIES` has the patches that all kernels of the distribution have. Those of a featureset, `rt` up to
Debian 13, are in the source package alone (`debian/patches-rt`, with a `series`); its headers say that it is one, as
they lie on top of `linux-headers-ABI-common-rt`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.acquire import apt
from builder.acquire.cache import scratch
from builder.acquire.suites import RELEASES, Group, configured
from builder.acquire.tools import need, run
from builder.errors import InputError, ToolError

log = logging.getLogger("bespoke.acquire")

#: the source package of all kernels
PACKAGE: Final = "linux"


@dataclass(frozen=True, slots=True)
class Queue:
    """The patches of a featureset, in their order."""

    name: str
    patches: tuple[Path, ...]

    def apply(self, root: Path) -> None:
        """Apply all to the unpacked source at `root`; `ToolError` where one does not fit."""
        log.info("applying the %d patches of %s", len(self.patches), self.name)
        for patch in self.patches:
            run(["patch", "-p1", "-s", "-f", "-F1", "--no-backup-if-mismatch", "-i", patch], cwd=root)


def featureset(release: str, groups: Sequence[Group]) -> str:
    """The featureset of a release (`rt`), empty where its source is that of all others."""
    try:
        headers = apt.lookup(f"linux-headers-{release}", groups=groups)
    except InputError:
        return ""  # nothing says so; a configuration that the source cannot be given is seen later
    found = re.search(r"linux-headers-\S+-common-([a-z]+)\b", headers.depends)
    return found[1] if found is not None else ""


@contextmanager
def fetched_queue(name: str, version: str, groups: Sequence[Group]) -> Iterator[Queue]:
    """The queue of the featureset `name` of source package `linux` at `version`, as long as the context lasts.

    Raises `ToolError` that names the file that cannot be fetched, `InputError` where the package has no such queue.
    """
    need(("patch", "tar", "xz"), purpose="applying a patch queue")
    with scratch("queue") as work:
        packed = _fetch(version, groups, work)
        run(["tar", "-x", "-f", packed, "-C", work, f"debian/patches-{name}"])
        folder = work / f"debian/patches-{name}"
        rows = (line.partition("#")[0].split() for line in (folder / "series").read_text().splitlines())
        patches = tuple(folder / row[0] for row in rows if row)
        if not patches:
            raise InputError(f"has no patch queue for {name}", where=packed.name)
        yield Queue(name, patches)


def _fetch(version: str, groups: Sequence[Group], work: Path) -> Path:
    """The packaging of the source package, from the first group of suites that has it."""
    bases = {base for suite in configured() for base in RELEASES.values() if suite.partition("-")[0] == base}
    names = [group.name for group in groups if group.name and group.name in bases] + sorted(bases)
    names += [group.name for group in groups if group.name]
    failed: ToolError | None = None
    for name in dict.fromkeys(names):
        try:
            return apt.fetch_source_file(PACKAGE, version, ".debian.tar.xz", Group(name), work)
        except ToolError as error:
            failed = failed or error
    raise failed or ToolError("no suite has it", where=f"{PACKAGE} {version}")

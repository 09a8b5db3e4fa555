"""Modules of kbuild's making, for the tests that load or read them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.acquire.cache import published
from builder.acquire.packages import fetch_headers
from builder.acquire.tools import run
from tests.conftest import needed


def compiled_modules(label: str, release: str, sources: Sequence[Path], kbuild: str = "") -> Mapping[str, Path]:
    """Name -> `.ko`, made of `sources` against the distribution's headers; kept in the cache as `label` says.

    `kbuild` is the text of the Kbuild file, where none is among the sources.
    """
    with needed():
        headers = fetch_headers(release)
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]

    def make(place: Path) -> None:
        work = place / "work"
        work.mkdir()
        for source in sources:
            shutil.copy(source, work)
        if kbuild:
            (work / "Kbuild").write_text(kbuild)
        run(["make", "-s", "-C", headers.build, f"M={work}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        for module in work.glob("*.ko"):
            os.replace(module, place / module.name)
        shutil.rmtree(work)

    place = published("samples", f"{label}-{release}-{headers.version}-{digest}", make)
    return {path.stem: path for path in place.glob("*.ko")}

"""What the build of the distribution's kernel made before it compiled the first object, from the packages with it.

`linux-headers-RELEASE` has the configuration and the generated headers as the kernel itself was compiled with them,
the `linux-kbuild-*` that it depends on the objtool. To make the same in the source takes a third of what a first
patch costs, and it is the same: `python -m tests.acquire.readymade` compares the objects. Headers go with any
`linux-kbuild-*` that is newer, and an archive may offer only such a one: objtool is made in the source then.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from builder.acquire import apt
from builder.acquire.cache import published, scratch
from builder.acquire.suites import Group
from builder.acquire.tools import ended
from builder.acquire.whole import write_whole
from builder.errors import InputError, MissingToolError, SpaceError, ToolError

log = logging.getLogger("bespoke.acquire")

OBJTOOL: Final = "tools/objtool/objtool"

#: in a tree that was unpacked: the files, until they are put in their places
READYMADE: Final = ".bespoke/readymade"

#: what is taken of the headers package; all else is the source's, or of use to modules alone
_TAKEN: Final = (".config", "include/config/auto.conf", "include/config/kernel.release", "include/generated")
_OF_THE_MACHINE: Final = "arch/*/include/generated"


def fetch_readymade(release: str, version: str, groups: Sequence[Group]) -> Path | None:
    """The files of the kernel package of `release` at `version`, where they lie in a source tree, in the cache.

    Without the objtool where the archive has none of that version, None where it has no such headers; there is a note
    then. Raises `SpaceError`, `MissingToolError`.
    """

    def make(place: Path) -> None:
        headers = apt.lookup(f"linux-headers-{release}", version, groups)
        try:
            kbuild = [_kbuild(headers)]
        except InputError as error:
            log.info("objtool is made here: %s", error)
            kbuild = []
        with scratch("readymade") as work:
            apt.unpack_all([headers, *kbuild], work)
            build = work / "usr/src" / headers.name
            of_the_machine = build / next(iter(build.glob(_OF_THE_MACHINE)), _OF_THE_MACHINE)
            for path in [*(build / name for name in _TAKEN), of_the_machine]:
                _move(path, place / path.relative_to(build))
            for package in kbuild:
                # In newer packages there is one for each machine, behind a program that chooses among them.
                objtool = work / "usr/lib" / package.name / OBJTOOL
                behind = objtool.with_name(f"objtool.real-{of_the_machine.parent.parent.name}")
                _move(behind if behind.exists() else objtool, place / OBJTOOL)
        config = place / "include/config/auto.conf"
        # The key that this kernel's modules were signed with is in no package; what it is called by default is made.
        key = re.compile(r'^(CONFIG_MODULE_SIG_KEY="?)[^"\n]*', re.MULTILINE)
        write_whole(config, key.sub(r"\1certs/signing_key.pem", config.read_text()))
        # By it make would find out whether auto.conf is as old as what it was made of, and make it anew.
        write_whole(config.with_name("auto.conf.cmd"), "")

    try:
        return published("headers", f"generated-{release}_{version}", make)
    except (SpaceError, MissingToolError):
        raise
    except (InputError, ToolError) as error:
        log.info("what the kernel's build generated is made here: %s", error)
        return None


def _kbuild(headers: apt.Package) -> apt.Package:
    """The package of the objtool of the very build that `headers` are of; InputError where it is not offered."""
    named = re.search(r"\blinux-kbuild-[a-z0-9.+~-]+", headers.depends)
    if named is None:
        raise InputError("depends on no package like linux-kbuild-*", where=headers.name)
    return apt.lookup(named[0], headers.version, [headers.group])


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(path, target)
    except FileNotFoundError as error:
        raise InputError("the package does not hold it", where=path.name) from error


def put_in(root: Path) -> None:
    """Put the files that lie in the tree into their places. An objtool that does not run here is left out."""
    place = root / READYMADE
    if not _runs(place / OBJTOOL):
        (place / OBJTOOL).unlink(missing_ok=True)
    shutil.copytree(place, root, dirs_exist_ok=True)


def _runs(objtool: Path) -> bool:
    try:
        return b"usage:" in ended([objtool, "--help"]).err.lower()
    except ToolError:
        return False


def fits(root: Path, wanted: Mapping[str, str], command: str) -> bool:
    """Whether the assembler that the compiler `command` calls is the one that the configuration `wanted` was made for:
    what it can do is part of a configuration. Asked as the source asks (scripts/as-version.sh, since 5.12)."""
    script = root / "scripts/as-version.sh"
    return script.is_file() and ended(["sh", script, command]).out.decode().split()[1:] == [
        wanted.get("CONFIG_AS_VERSION")
    ]

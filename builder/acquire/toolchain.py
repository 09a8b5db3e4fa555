"""The compiler that a kernel was built with: on this machine, else fetched from the kernel's own suite, or refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from builder.acquire.suites import Group
from builder.acquire.tools import run
from builder.acquire.toolset import fetch_compiler
from builder.errors import NOTHING, Allowed, InputError, Refusal, RefusedError, ToolError, UnknownError


@dataclass(frozen=True, slots=True)
class Compiler:
    """The compiler in use (`command`, its version line) beside the one that built the kernel.

    Of one that was fetched `linker` is the linker beside it, and `packages` what it consists of (NAME=VERSION).
    """

    command: str
    version: str
    expected: str
    linker: str = ""
    packages: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both version lines agree (the name by which it is called set aside)."""
        return without_program(self.version) == without_program(self.expected)


def without_program(version_line: str) -> str:
    """`gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0` without the name by which gcc was called."""
    return version_line.strip().partition(" ")[2]


def read_config(path: Path) -> dict[str, str]:
    """A `.config` as {option: value}; strings without their quotes, unset options absent."""
    try:
        state = path.stat()
        return dict(_config(path, state.st_ino, state.st_size, state.st_mtime_ns))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the kernel's configuration cannot be read", where=path) from error


@lru_cache(maxsize=8)
def _config(path: Path, *_state: int) -> dict[str, str]:
    """The same of one state of the file: a patch asks for it several times, and it has 9,000 lines."""
    rows = re.findall(r"^(CONFIG_\w+)=(.*)$", path.read_text(), flags=re.MULTILINE)
    if not rows:
        raise InputError("not a kernel configuration (no CONFIG_ line)", where=path)
    return {key: value[1:-1] if value.startswith('"') else value for key, value in rows}


def banner_compiler(banner: str) -> str:
    """The compiler's version line out of a kernel's banner; `InputError` when it names none.

    `linux_banner` reads "Linux version R (BY@HOST) (COMPILER, LINKER) #1 ..." since 5.8
    (init/version.c, before init/version-timestamp.c took it over in 6.2).
    """
    match = re.search(r"^Linux version \S+ \([^)]*\) \((.*?), (?:GNU ld|LLD)", banner)
    if match is None:
        raise InputError(f"no compiler in the kernel's banner: {banner[:120]!r}")
    return match[1]


def find_compiler(config: Mapping[str, str], allowed: Allowed = NOTHING, groups: Sequence[Group] = ()) -> Compiler:
    """The compiler of `CONFIG_CC_VERSION_TEXT`, by its own name, without target prefix, or as `gcc`.

    One that is not here is fetched from `groups` of suites, into the cache. Another version may generate
    other code: unless `allowed` that is the refusal `compiler-differs`. `ToolError` when there is no compiler at all.
    """
    expected = config.get("CONFIG_CC_VERSION_TEXT", "")
    if not expected:
        raise InputError("the kernel's configuration does not name its compiler (CONFIG_CC_VERSION_TEXT)")
    if config.get("CONFIG_CC_IS_GCC") != "y":
        raise UnknownError(f"kernels built by {expected.split()[0]} are not handled: only those built by gcc")
    named = expected.split()[0]
    plain = re.sub(r"^[\w]+-linux-gnu-", "", named)
    wanted = f"gcc-{int(config.get('CONFIG_GCC_VERSION', '0')) // 10000}"
    present = [name for name in dict.fromkeys((named, plain, wanted, "gcc")) if shutil.which(name)]
    found = [Compiler(command=name, version=_version(name), expected=expected) for name in present]
    best = next((compiler for compiler in found if compiler.same), None)
    missing = ""
    if best is None and groups and not (found and allowed.covers(_refusal(found[0], wanted))):
        try:
            return _fetched(wanted, expected, groups)
        except (InputError, ToolError) as error:
            missing = f"; {error.message}"
    if best is None and not found:
        raise ToolError(f"no compiler: apt-get install {wanted}{missing}")
    best = best or found[0]
    if not best.same:
        refusal = _refusal(best, wanted, missing)
        if not allowed.covers(refusal):
            raise RefusedError([refusal])
    return best


def _version(command: str) -> str:
    return run([command, "--version"]).split("\n", 1)[0]


def _fetched(wanted: str, expected: str, groups: Sequence[Group]) -> Compiler:
    """The very compiler from its suite; InputError where no package is of that version."""
    version = re.search(r"\((?:Debian|Ubuntu) ([^)]+)\)", expected)
    if version is None:
        raise InputError(f"{expected} names no version of a package")
    tools = fetch_compiler(wanted, version[1], groups)
    found = Compiler(tools.command, _version(tools.command), expected, tools.linker, tools.packages)
    if not found.same:
        raise InputError(f"the package {wanted} {version[1]} holds {without_program(found.version)}")
    return found


def _refusal(best: Compiler, wanted: str, missing: str = "") -> Refusal:
    theirs, ours = without_program(best.expected), without_program(best.version)
    return Refusal(
        code="compiler-differs",
        symbol=best.command,
        section="",
        fatal=False,
        message=f"the kernel was built by {theirs}, here is {ours}{missing}",
        advice=f"install that version of {wanted}, or accept another one",
    )

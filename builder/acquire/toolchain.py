"""The compiler that a kernel was built with, found on this machine or refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.tools import run
from builder.errors import NOTHING, Allowed, InputError, Refusal, RefusedError, ToolError, UnknownError


@dataclass(frozen=True, slots=True)
class Compiler:
    """The compiler in use (`command`, its version line) beside the one that built the kernel."""

    command: str
    version: str
    expected: str

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
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the kernel's configuration cannot be read", where=path) from error
    rows = re.findall(r"^(CONFIG_\w+)=(.*)$", text, flags=re.MULTILINE)
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


def find_compiler(config: Mapping[str, str], allowed: Allowed = NOTHING) -> Compiler:
    """The compiler of `CONFIG_CC_VERSION_TEXT`, by its own name, without target prefix, or as `gcc`.

    Another version may generate other code: unless `allowed` that is the refusal
    `compiler-differs`. `ToolError` when there is no compiler at all.
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
    if not present:
        raise ToolError(f"no compiler: apt-get install {wanted}")
    found = [
        Compiler(command=name, version=run([name, "--version"]).split("\n", 1)[0], expected=expected)
        for name in present
    ]
    best = next((compiler for compiler in found if compiler.same), found[0])
    if not best.same:
        theirs, ours = without_program(expected), without_program(best.version)
        refusal = Refusal(
            code="compiler-differs",
            symbol=best.command,
            section="",
            fatal=False,
            message=f"the kernel was built by {theirs}, here is {ours}",
            advice=f"install that version of {wanted}, or accept another one",
        )
        if not allowed.covers(refusal):
            raise RefusedError([refusal])
    return best

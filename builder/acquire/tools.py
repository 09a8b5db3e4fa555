"""Running other programs: one way, with an error that names the program and, when missing, its package."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from builder.acquire.cache import inherited_locks
from builder.errors import ToolError

#: program -> the Debian package that has it, where the names differ
DEBIAN_PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "as": "binutils",
    "ld": "binutils",
    "tar": "tar",
    "xz": "xz-utils",
    "nm": "binutils",
}


#: variables that steer a build and may be set by accident, by a make that runs us for one
BUILD_VARIABLES = re.compile(
    r"MAKE\w*|MFLAGS|GNUMAKEFLAGS|KBUILD_\w+|K\w+FLAGS|ARCH|SUBARCH|CROSS_COMPILE|O|M|V|W|C|LLVM|"
    r"CC|HOSTCC|LD|AR|AS|(HOST|LD|C|CPP|CXX)FLAGS|INSTALL_\w+|GCC_\w+|C(PLUS)?_INCLUDE_PATH|CPATH|LOCALVERSION"
)


def package_of(program: str) -> str:
    """The Debian package that holds `program` (by default of the same name)."""
    return DEBIAN_PACKAGES.get(Path(program).name, Path(program).name)


def need(programs: Iterable[str], *, purpose: str) -> None:
    """Raise `ToolError` naming every missing program's package at once."""
    missing = sorted({package_of(name) for name in programs if shutil.which(name) is None})
    if missing:
        raise ToolError(f"{purpose} needs: apt-get install {' '.join(missing)}")


def clean_environment() -> dict[str, str]:
    """This process's environment without the variables of a build, messages in English."""
    inherited = {key: value for key, value in os.environ.items() if not BUILD_VARIABLES.fullmatch(key)}
    return {**inherited, "LC_ALL": "C"}


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout: float | None = None,
    held: Collection[int] = (),
) -> str:
    """Run a program to its end and return its standard output (text, undecodable bytes replaced).

    `env` is added to `clean_environment()`. With `log`,
    both outputs are appended to that file as well. `held` are descriptors of
    locks that the program holds with us (see `cache.locked`). A failure is a
    `ToolError` with the program's last lines; an interrupt ends the program's
    whole group.
    """
    words = [str(word) for word in argv]
    environment = {**clean_environment(), **(env or {})}
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=(*inherited_locks, *held),
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise ToolError("no such directory", where=cwd) from error
        raise ToolError(f"{words[0]} is not installed: apt-get install {package_of(words[0])}") from error
    except OSError as error:
        raise ToolError(f"{words[0]} cannot be run: {error.strerror}") from error
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise ToolError(f"{words[0]} did not end within {timeout:.0f} s") from error
    except BaseException:
        _end(process)
        raise
    if log is not None:
        with open(log, "a", encoding="utf-8") as handle:
            handle.write(f"$ {' '.join(words)}\n{out}{err}")
    if process.returncode:
        raise ToolError(_failure(words, process.returncode, out, err, log))
    return out


def run_grep(root: Path, words: Iterable[str], *, whole_words: bool) -> Iterator[tuple[str, int, str]]:
    """(file, line, word) of each of `words` that stands alone in a C or assembler file below `root`.

    Without `whole_words`, (file, line, whole line) of each line that holds one.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".words") as patterns:
        patterns.write("".join(f"{word}\n" for word in sorted(words)))
        patterns.flush()
        folders = [
            entry.name
            for entry in sorted(root.iterdir())
            if entry.is_dir()
            and not entry.name.startswith(".")
            and entry.name not in ("tools", "Documentation", "samples", "LICENSES", "debian")
        ]
        argv = [
            "grep",
            "-rnoFIZw" if whole_words else "-rnFIZ",
            "-f",
            patterns.name,
            *(f"--include=*.{end}" for end in ("c", "h", "S", "inc")),
            "--",
            *folders,
        ]
        found = subprocess.run(argv, cwd=root, capture_output=True, env=clean_environment(), check=False)
    if found.returncode > 1:
        raise ToolError(f"grep failed: {found.stderr.decode(errors='replace').strip()}")
    for record in found.stdout.decode("utf-8", "surrogateescape").split("\n"):
        path, separator, rest = record.partition("\0")
        line, _, text = rest.partition(":")
        if separator:
            yield path, int(line), text


#: seconds that an interrupted program has to take away what it had half written (make does)
ENDING = 5.0


def _end(process: subprocess.Popen[str]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=ENDING if sign == signal.SIGTERM else None)
            return


def _failure(words: Sequence[str], status: int, out: str, err: str, log: Path | None) -> str:
    lines = [line for line in (err.strip() or out.strip()).splitlines() if line.strip()]
    # The first error is the cause; what follows it in a build is noise.
    causes = (n for n, line in enumerate(lines) if "error" in line.lower() or line.startswith("E:"))
    first = next(causes, max(0, len(lines) - 3))
    told = lines[first : first + 3]
    full = next((line for line in lines if "No space left on device" in line), None)
    if full is not None:
        told = ["No space left on device"]  # what else a program says then are consequences
    ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    text = f"{Path(words[0]).name} failed ({ended}): {' | '.join(told) or 'no message'}"
    return f"{text} (log: {log})" if log is not None else text

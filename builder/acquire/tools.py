"""Running other programs: one way, with an error that names the program and, when missing, its package."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.acquire.cache import thread
from builder.errors import BespokeError, MissingToolError, SpaceError, ToolError

log = logging.getLogger("bespoke.acquire")

#: program -> the Debian package that has it, where the names differ
DEBIAN_PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "as": "binutils",
    "find": "findutils",
    "ld": "binutils",
    "tar": "tar",
    "xargs": "findutils",
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
        raise MissingToolError(f"{purpose} needs: apt-get install {' '.join(missing)}")


def clean_environment() -> dict[str, str]:
    """This process's environment without the variables of a build, messages in English."""
    inherited = {key: value for key, value in os.environ.items() if not BUILD_VARIABLES.fullmatch(key)}
    return {**inherited, "LC_ALL": "C"}


class _Programs:
    """Programs that run and are ended together; once they were nothing is started any more."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.ending = threading.Event()

    def end(self) -> None:
        """Each is in a group of its own, and would outlive us. Who waits for one finds that a signal ended it."""
        self.ending.set()
        processes = list(self.running)
        until = time.monotonic() + 1.0
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in processes:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, sign)
            while any(process.poll() is None for process in processes) and time.monotonic() < until:
                time.sleep(0.01)


class _Threads(threading.local):
    """Of each thread: what its programs are ended with."""

    def __init__(self) -> None:
        self.programs = [_all]


_all = _Programs()
_here = _Threads()


@contextlib.contextmanager
def started(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    held: Collection[int] = (),
    errors: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs, in a group of its own that is ended with this block; its standard output is a pipe.

    `env` is added to `clean_environment()`; `held` are descriptors of locks that the program holds with us
    (see `cache.locked`); `errors` is where its standard error goes. Raises `MissingToolError` where there is no
    such program, `ToolError` where it cannot be run.
    """
    words = [str(word) for word in argv]
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**clean_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            pass_fds=(*thread.inherited_locks, *held),
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise ToolError("no such directory", where=cwd) from error
        raise MissingToolError(f"{words[0]} is not installed: apt-get install {package_of(words[0])}") from error
    except OSError as error:
        raise ToolError(f"{words[0]} cannot be run: {error.strerror}") from error
    for programs in _here.programs:
        programs.running.add(process)
    try:
        # Looked at after it was added: either it is ended there, or here.
        if any(programs.ending.is_set() for programs in _here.programs):
            raise ToolError(f"{words[0]} is not run: this process is ending")
        yield process
    finally:
        for programs in _here.programs:
            programs.running.discard(process)
        if process.poll() is None:
            _end(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@dataclass(frozen=True, slots=True)
class Ended:
    """What a program left: its exit status (negative: the signal that ended it) and both outputs."""

    status: int
    out: bytes
    err: bytes


def ended(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    held: Collection[int] = (),
) -> Ended:
    """Run a program to its end, whatever that is. Raises as `started`, and `ToolError` after `timeout` seconds."""
    with started(argv, cwd=cwd, env=env, held=held) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{argv[0]} did not end within {timeout:.0f} s") from error
        return Ended(process.returncode, out, err)


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

    As `ended`; with `log`, both outputs are appended to that file as well. A
    failure is a `ToolError` with the program's last lines, or a `SpaceError`.
    """
    words = [str(word) for word in argv]
    left = ended(words, cwd=cwd, env=env, timeout=timeout, held=held)
    out, err = (raw.decode(errors="replace") for raw in (left.out, left.err))
    if log is not None:
        with open(log, "a", encoding="utf-8", errors="surrogateescape") as handle:
            handle.write(f"$ {' '.join(words)}\n{out}{err}")
    if left.status:
        raise _failure(words, left.status, out, err, log)
    return out


def run_grep(
    root: Path, words: Iterable[str], *, whole_words: bool, patterns: bool = False
) -> Iterator[tuple[str, int, str]]:
    """(file, line, word) of each of `words` that stands alone in a C or assembler file below `root`.

    Without `whole_words`, (file, line, whole line) of each line that holds one, or with `patterns` matches it as an
    extended regular expression.
    """
    from concurrent.futures import ThreadPoolExecutor  # here, for most who run programs search for nothing

    with tempfile.NamedTemporaryFile("w", suffix=".words", encoding="utf-8", errors="surrogateescape") as listed:
        listed.write("".join(f"{word}\n" for word in sorted(words)))
        listed.flush()
        folders = [
            entry.name
            for entry in sorted(root.iterdir())
            if entry.is_dir()
            and not entry.name.startswith(".")
            and entry.name not in ("tools", "Documentation", "samples", "LICENSES", "debian")
        ]
        argv = [
            "grep",
            "-rnoFIZw" if whole_words else "-rnEIZ" if patterns else "-rnFIZ",
            "-f",
            listed.name,
            *(f"--include=*.{end}" for end in ("c", "h", "S", "inc")),
            "--",
        ]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            parts = list(pool.map(lambda part: ended([*argv, *part], cwd=root), _in_parts(folders)))
    for found in parts:
        if found.status not in (0, 1):  # 1: nothing found
            raise _failure(argv, found.status, "", found.err.decode(errors="replace"), None)
    for record in b"".join(found.out for found in parts).decode("utf-8", "surrogateescape").split("\n"):
        path, separator, rest = record.partition("\0")
        line, _, text = rest.partition(":")
        if separator:
            yield path, int(line), text


def _in_parts(folders: Sequence[str]) -> list[Sequence[str]]:
    """A kernel's folders in parts that are read at the same time: half of all text is below `drivers`."""
    at = folders.index("drivers") if "drivers" in folders else 0
    return [part for part in (folders[:at], folders[at : at + 1], folders[at + 1 :]) if part] or [()]


#: seconds that an interrupted program has to take away what it had half written (make does)
ENDING = 5.0


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=ENDING if sign == signal.SIGTERM else None)
            return


def _failure(words: Sequence[str], status: int, out: str, err: str, log: Path | None) -> ToolError:
    lines = [line for line in (err.strip() or out.strip()).splitlines() if line.strip()]
    # The first error is the cause; what follows it in a build is noise.
    causes = (n for n, line in enumerate(lines) if "error" in line.lower() or line.startswith("E:"))
    first = next(causes, max(0, len(lines) - 3))
    told = lines[first : first + 3]
    full = any(os.strerror(errno.ENOSPC) in line for line in lines)
    if full:
        told = [os.strerror(errno.ENOSPC)]  # what else a program says then are consequences
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    text = f"{Path(words[0]).name} failed ({how}): {' | '.join(told) or 'no message'}"
    return (SpaceError if full else ToolError)(f"{text} (log: {log})" if log is not None else text)


def end_programs() -> None:
    """End what runs, and start nothing any more: for a process that ends while threads of it wait for programs."""
    _all.end()


@contextlib.contextmanager
def aside(work: Callable[[], object]) -> Iterator[None]:
    """Do `work` in a thread of its own that ends with this block, at once where that is left by an exception.

    What the work raises is no more than noted: whoever needs what it makes asks for that, and has it made then.
    """
    programs = _Programs()

    def run_here() -> None:
        _here.programs = [*_here.programs, programs]
        try:
            work()
        except BespokeError as error:
            log.debug("what was begun meanwhile ended: %s", error)

    thread = threading.Thread(target=run_here, name="aside")
    thread.start()
    try:
        yield
    except BaseException:
        programs.end()
        raise
    finally:
        thread.join()

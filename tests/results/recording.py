"""Asks the command line and keeps what it answers.

Every case has an empty directory, in which its inputs stand under fixed names
and where its commands run, each in a process of its own. Names are relative
there, so that an answer says little of the machine. The order of Python's sets
is the same in every recording, and another for each command of a case: a
module that hangs on it differs within a recording, which then says so
(`AGAIN`). Whatever hangs on it differs from a recording with another
`hash_seed`.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from builder.acquire.cache import cache_root
from builder.errors import BespokeError
from tests.results.normalise import normalised, rules

BUILDER = ("-m", "builder")
LOADED = (str(Path(__file__).with_name("loaded.py")),)
PACKED = ".xz"
AGAIN = "-again"
TEXT = (".txt", ".json", ".html")
TIMEOUT = 3600
UNSET = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CI", "BESPOKE_DEBUG")
"""Variables that change what is said, and not what it is about."""


class RecordError(BespokeError):
    """What was to be recorded could not be."""


@dataclass(frozen=True, slots=True)
class Run:
    """A command; with `suffix` its standard output is a document of its own (`.json.xz`: packed).

    Each file that the command writes is one too: name -> suffix.
    """

    words: Sequence[str]
    suffix: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = BUILDER


@dataclass(frozen=True, slots=True)
class Case:
    """Commands on the same inputs (name -> file). What they answer is kept as `name` + suffix; the rest in a `.txt`.

    `kernel` is the release that it is about, `objects` those of the inputs that are modules of their own, by name.
    """

    name: str
    inputs: Mapping[str, Path]
    runs: Sequence[Run]
    kernel: str = ""
    objects: Mapping[str, str] = field(default_factory=dict)

    @property
    def part(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Recorder:
    """Keeps answers below `folder`; `code` is the checkout whose package answers."""

    folder: Path
    code: Path
    hash_seed: int = 0

    def environment(self, number: int = 0) -> dict[str, str]:
        """For the command of that number in its case."""
        kept = {k: v for k, v in os.environ.items() if k not in UNSET and not k.startswith("PYTHON")}
        ours = {"PYTHONPATH": str(self.code), "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": str(self.hash_seed + number)}
        return kept | ours | {"LC_ALL": "C.UTF-8", "TERM": "dumb"}

    def check_code(self) -> None:
        """RecordError where another package than that of `code` would answer."""
        said = self._ask(["-c", "import builder; print(builder.__file__)"], Path.cwd())
        if said.stdout.decode().strip() != str(self.code / "builder/__init__.py"):
            raise RecordError(f"not the package that would answer: {(said.stdout or said.stderr).decode().strip()}")

    def record(self, cases: Sequence[Case], jobs: int = 1) -> list[str]:
        """Record all cases, `jobs` at once, and return the names of the documents."""
        names = [case.name for case in cases]
        for name in names:
            if names.count(name) > 1:
                raise RecordError("two cases have this name", where=name)
        with ThreadPoolExecutor(jobs) as pool:
            try:
                return [name for names in pool.map(self.record_one, cases) for name in names]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def record_one(self, case: Case) -> list[str]:
        """Record one case and return the names of its documents."""
        with tempfile.TemporaryDirectory(prefix="results-") as place:
            work = Path(place).resolve()
            for name, path in case.inputs.items():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, work / name)
            documents: dict[str, bytes] = {}
            text = [f"{sha256(work / name)}  {name}\n" for name in case.inputs]
            for number in range(len(case.runs)):
                text += self._answers(case, number, work, documents)
            documents[".txt"] = "".join(text).encode()
            table = rules(work, cache_root(), self.code)
            for suffix, content in documents.items():
                if suffix.removesuffix(PACKED).endswith(TEXT):
                    content = normalised(content.decode("utf-8", "surrogateescape"), table).encode(
                        "utf-8", "surrogateescape"
                    )
                self._keep(case.name + suffix, content)
        return [case.name + suffix for suffix in documents]

    def _answers(self, case: Case, number: int, work: Path, documents: dict[str, bytes]) -> Iterator[str]:
        """Run a command; yields what goes into the text, the rest becomes documents."""
        run = case.runs[number]
        said = self._ask([*run.program, *run.words], work, number)
        if b"Traceback (most recent call last)" in said.stderr:
            raise RecordError(f"{shlex.join(run.words)}: {said.stderr.decode()}", where=case.name)
        shown = "bespoke" if run.program == BUILDER else Path(run.program[-1]).stem
        yield f"\n$ {shown} {shlex.join(run.words)}\nexit status {said.returncode}\n"
        out, err = said.stdout, said.stderr
        if run.suffix and out:
            documents[run.suffix], out = out, b""
        for title, stream in (("output", out), ("errors", err)):
            if stream:
                yield f"--- {title}\n{stream.decode('utf-8', 'surrogateescape')}"
        for name, suffix in run.files.items():
            file = work / name
            if not file.is_file():
                continue
            content = file.read_bytes()
            if documents.setdefault(suffix, content) != content:
                documents[AGAIN + suffix] = content
                yield f"--- {name} is another file than before\n"
            file.unlink()
        for path in sorted(set(os.listdir(work)) - {Path(name).parts[0] for name in case.inputs}):
            yield f"--- left behind: {path}\n"

    def _ask(self, words: Sequence[str], place: Path, number: int = 0) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=place,
            env=self.environment(number),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )

    def _keep(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # a low preset: it is fast, and what repeats itself is packed well by any
        path.write_bytes(lzma.compress(content, preset=1) if name.endswith(PACKED) else content)


def sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

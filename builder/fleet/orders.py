"""An order and what comes of it: everything that decides a cell, and everything that is known of it afterwards.

Both are plain values that travel to a worker and back. The key of an order is a checksum of what decides the result:
equal keys, equal results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import builder
from builder import __version__
from builder.fleet.kernels import FleetKernel
from builder.fleet.spec import PatchText


@dataclass(frozen=True, slots=True)
class CellVerdict:
    """A row of what may become of a cell: its sign and style in a table, the exit status that it asks for.

    A `final` one follows from the order alone; the others are tried again.
    """

    name: str
    sign: str
    style: str
    status: int
    sentence: str
    final: bool = True


VERDICTS: Final = {
    row.name: row
    for row in (
        CellVerdict("shipped", "✓", "green", 0, "the module is there, and all that was asked of it is well"),
        CellVerdict("has-it", "=", "cyan", 3, "the kernel has the fix already"),
        CellVerdict("not-built", "–", "dim", 3, "no object of this kernel is made of the files"),
        CellVerdict("not-meant", "·", "dim", 3, "no variant of the fix is for this kernel"),
        CellVerdict("unchanged", "○", "dim", 3, "nothing that runs changed"),
        CellVerdict("no-fit", "≠", "yellow", 2, "the patch does not apply to the kernel's source"),
        CellVerdict("refused", "✗", "red", 1, "the change cannot ship"),
        CellVerdict("unsound", "!", "red", 1, "a module was made, but the check or the trial found something wrong"),
        CellVerdict("error", "?", "magenta", 2, "it could not be found out: the input cannot be used"),
        CellVerdict("trouble", "‽", "magenta", 2, "what worked on it failed; it is tried again", final=False),
    )
}
"""What may become of a cell, in the order of reports."""


@dataclass(frozen=True, slots=True)
class Order:
    """One cell: these patches for this kernel, made into a module `fix`, and what is asked of that.

    Modules are signed where they are kept, and not by who makes them: of that an order says only the `signer`.
    `code` is the checksum of the program that is to do it, so that no other version's results are taken for its own.
    """

    fix: str
    kernel: FleetKernel
    patches: tuple[PatchText, ...]
    allow: tuple[str, ...]
    replace: bool
    cpus: tuple[str, ...]
    trial: bool
    run: tuple[str, ...]
    load: tuple[str, ...]
    signer: str
    code: str

    @property
    def key(self) -> str:
        """64 hexadecimal digits; what the image file holds is in it by `sha256`."""
        row = asdict(replace(self, kernel=replace(self.kernel, files=None)))
        row["patches"] = [[patch.name, hashlib.sha256(patch.content).hexdigest()] for patch in self.patches]
        return hashlib.sha256(json.dumps(row, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class CellResult:
    """What became of an order. `module` holds the bytes of a module that may be shipped.

    `phases` are seconds by what was done in them, `checks` a row for each CPU model, `trial` what the guest said of
    each command. `worker` did it, `tries` says how often it was begun.
    """

    key: str
    fix: str
    kernel: str
    verdict: str
    detail: str = ""
    functions: tuple[str, ...] = ()
    refusals: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[Mapping[str, Any], ...] = ()
    checks: tuple[Mapping[str, Any], ...] = ()
    trial: Mapping[str, Any] | None = None
    manifest: Mapping[str, Any] | None = field(default=None, repr=False)
    module: bytes | None = field(default=None, repr=False)
    phases: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""
    tries: int = 1

    @property
    def row(self) -> CellVerdict:
        return VERDICTS[self.verdict]

    @property
    def sha256(self) -> str:
        """Of the module; empty where there is none."""
        return hashlib.sha256(self.module).hexdigest() if self.module is not None else ""

    @property
    def seconds(self) -> float:
        return sum(self.phases.values())

    def as_json(self) -> dict[str, Any]:
        """All of it but the module's bytes and its manifest."""
        names = (
            "key", "fix", "kernel", "verdict", "detail", "functions", "refusals", "warnings", "checks", "trial",
            "phases", "worker", "tries",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in names}, "sha256": self.sha256}


@cache
def code_digest() -> str:
    """The checksum of this program: of each of its files that can decide a result."""
    package = Path(builder.__file__).resolve().parent
    templates = [place for place in (package / "_templates", package.parent / "templates") if place.is_dir()]
    digest = hashlib.sha256(__version__.encode())
    for root, pattern in ((package, "**/*.py"), *((place, "glue*") for place in templates)):
        for path in sorted(root.glob(pattern)):
            # How results are handed about and shown is no part of them.
            if path.relative_to(root).parts[0] not in ("cli", "report", "fleet"):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    digest.update((package / "fleet/cell.py").read_bytes())
    return digest.hexdigest()[:16]

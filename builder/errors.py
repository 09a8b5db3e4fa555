"""The exception tree: every error carries the fields that name its place.

Exit statuses follow the command-line contract: 1 refused (the change cannot
ship), 2 bad usage or unreadable input. `Unchanged` is not an error and is not
here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from builder import codes


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why a change cannot ship, or (as a warning) what to look at.

    `code` is stable and is what `--allow CODE:SYMBOL` names; ValueError for one without a row in builder/codes.py.
    `fatal` refusals would crash the kernel and cannot be accepted by anybody.
    """

    code: str
    symbol: str
    section: str
    message: str
    advice: str
    fatal: bool = True

    def __post_init__(self) -> None:
        codes.known(self.code)

    def as_json(self) -> dict[str, Any]:
        """The row of the command-line contract: five strings, and `fatal`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What `--allow CODE:SYMBOL` accepts, `*` standing for all symbols; `sets` are the variables whose changed initial
    values are put into the running kernel (`--set`)."""

    rows: frozenset[tuple[str, str]] = frozenset()
    sets: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, texts: Iterable[str], sets: Iterable[str] = ()) -> Allowed:
        """From `CODE:SYMBOL` texts, and `SYMBOL` or `SYMBOL=as built`; UsageError names one that is none, or whose code
        nothing has."""
        rows = set()
        for text in texts:
            code, _, symbol = text.partition(":")
            if not code or not symbol:
                raise UsageError(f"--allow takes CODE:SYMBOL, not {text!r}")
            if code not in codes.CODES:
                raise UsageError(f"--allow {text}: {codes.unknown(code)}")
            rows.add((code, symbol))
        names = set()
        for text in sets:
            name, equals, value = text.partition("=")
            if not name or (equals and value != "as built"):
                raise UsageError(f"--set takes SYMBOL (or 'SYMBOL=as built'), not {text!r}")
            names.add(name)
        return cls(frozenset(rows), frozenset(names))

    def __or__(self, other: Allowed) -> Allowed:
        return Allowed(self.rows | other.rows, self.sets | other.sets)

    def names(self, code: str, symbol: str) -> bool:
        """Whether a refusal of that code and symbol is accepted, if it is a matter of judgement."""
        return not self.rows.isdisjoint({(code, symbol), (code, "*")})

    def covers(self, refusal: Refusal) -> bool:
        """Whether a refusal is accepted; one that would crash a kernel never is."""
        return not refusal.fatal and self.names(refusal.code, refusal.symbol)


NOTHING: Final = Allowed()
"""Nothing is accepted."""

NO_FUNCTIONS: Final[Mapping[str, Sequence[str]]] = {"changed": (), "new": (), "removed": (), "line_only": ()}
"""The names of functions by what became of them, as a diff's document has them, where there are none."""


class BespokeError(Exception):
    """Base of all errors that a user is shown; `exit_status` as the contract says."""

    exit_status = 2

    def __init__(self, message: str, *, where: str | Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = str(where) if where is not None else None

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class InputError(BespokeError):
    """A file that cannot be read as what it should be (truncated, of another kind)."""


class UsageError(BespokeError):
    """A command or an API call whose arguments do not fit together."""


class UnknownError(InputError):
    """Something this version has no rule for: a relocation, a table, a section.

    Unknown means error, never skip.
    """


class KernelError(InputError):
    """A kernel image that cannot be a target, and why."""


class MissingFileError(InputError):
    """Source that does not compile, for a file that it reads is not there: kbuild may generate it first."""


class ToolError(BespokeError):
    """A program that is needed is missing or failed."""


class MissingToolError(ToolError):
    """A program that is needed is not installed; the message names what to install."""


class SpaceError(ToolError):
    """A program failed for there was no room on the disk."""


class GuestError(BespokeError):
    """The guest did not boot, did not answer in time, or died; `log` is the end of its kernel's log."""

    def __init__(self, message: str, *, where: str | Path | None = None, log: str = "") -> None:
        super().__init__(message, where=where)
        self.log = log


class LoadError(BespokeError):
    """A module that the kernel (or its simulation) would not load; `errno` is what init_module(2) would say."""

    errno = errno.ENOEXEC


class UnknownSymbolError(LoadError):
    """A module that needs symbols which nothing exports; `symbols` are their names."""

    errno = errno.ENOENT

    def __init__(self, symbols: Sequence[str], *, where: str | Path | None = None) -> None:
        super().__init__(f"Unknown symbol {', '.join(symbols)} (err -{self.errno})", where=where)
        self.symbols = tuple(symbols)


class UncheckedError(LoadError):
    """What the kernel does not check and would write all the same."""


class RefusedError(BespokeError):
    """The change cannot ship; all reasons together.

    `functions` and `warnings` are what was found until then: names as in the document of a diff, none where
    nothing was compared.
    """

    exit_status = 1

    def __init__(
        self,
        refusals: Sequence[Refusal],
        *,
        where: str | Path | None = None,
        functions: Mapping[str, Sequence[str]] = NO_FUNCTIONS,
        warnings: Sequence[Refusal] = (),
    ) -> None:
        self.refusals = tuple(refusals)
        self.functions = {kind: tuple(names) for kind, names in functions.items()}
        self.warnings = tuple(warnings)
        super().__init__("; ".join(map(str, self.refusals)), where=where)

"""The output folder of a fleet: modules and manifests as they come, an index with checksums, what a next run needs.

    out/KERNEL/FIX.ko, FIX.json      a module that may be shipped, and its manifest
    out/index.json, SHA256SUMS       every cell, every checksum of modules and packages (`sha256sum -c SHA256SUMS`)
    out/packages/                    for each fix one with its modules, where packages are asked for (`shipping`)
    out/SHA256SUMS.p7s               its signature, where there is a key (a detached PKCS#7 message)
    out/report/index.html            the matrix
    out/.fleet/                      the results by the keys of their orders, and what was asked for

Each file appears whole or not at all: whatever ends a run, the next one goes on from there.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from builder.acquire.whole import write_whole
from builder.emit.signing import SigningKey
from builder.errors import InputError, UsageError
from builder.fleet.kernels import FleetKernel, ImageFiles
from builder.fleet.orders import VERDICTS, CellResult, Order
from builder.fleet.spec import Demands, Fleet, FleetFix, PatchText, Variant

#: of the documents in `.fleet`; those of another number are not read
FORMAT = 1


class Store:
    """What lies in an output folder, made by the first that is written. With a `key` it is signed."""

    def __init__(self, root: Path, key: SigningKey | None = None) -> None:
        self.root = root
        self._key = key
        self._own = root / ".fleet"

    @contextmanager
    def held(self) -> Iterator[None]:
        """For the time of a run; UsageError where another run writes here, or nobody can."""
        try:
            self._own.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"nothing can be written there: {error.strerror}", where=self.root) from error
        with open(self._own / "lock", "ab") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError("another run writes there", where=self.root) from None
            yield

    def put(self, result: CellResult) -> CellResult:
        """Keep a result, its module signed: the module first, so that a result that is kept has it."""
        if self._key is not None and result.module is not None:
            result = replace(result, module=self._key.sign(result.module))
        module = self._module(result)
        if result.module is not None:
            write_whole(module, result.module)
            write_whole(module.with_suffix(".json"), json.dumps(result.manifest, indent=1) + "\n")
        else:
            for stale in (module, module.with_suffix(".json")):
                stale.unlink(missing_ok=True)
        if result.row.final:
            write_whole(self._cell(result.key), json.dumps({"format": FORMAT, **result.as_json()}))
        return result

    def get(self, order: Order) -> CellResult | None:
        """The result of an order, with its module as it was made; None where it has to be done."""
        row = None
        with contextlib.suppress(InputError):  # what is damaged is made again
            row = _document(self._cell(order.key))
        if row is None or row.get("format") != FORMAT or row.get("verdict") not in VERDICTS:
            return None
        sha256 = row.pop("sha256")
        del row["format"]
        sequences = ("functions", "refusals", "warnings", "checks")
        fields: dict[str, Any] = {key: tuple(value) if key in sequences else value for key, value in row.items()}
        result = CellResult(**fields)
        if not sha256:
            return result
        with contextlib.suppress(OSError, ValueError):
            path = self._module(result)
            found = replace(
                result, module=path.read_bytes(), manifest=json.loads(path.with_suffix(".json").read_text())
            )
            if found.sha256 == sha256:
                return found
        return None

    def finish(self, index: Mapping[str, Any]) -> None:
        """Write the index and the checksums; what the last ones list and is no part of these is taken away."""
        names = {f"{cell['kernel']}/{cell['fix']}.ko": cell["sha256"] for cell in index["cells"] if cell["sha256"]}
        for row in index["packages"]:
            names[row["file"]] = hashlib.sha256((self.root / row["file"]).read_bytes()).hexdigest()
        for name in _listed(self.root / "SHA256SUMS") - names.keys():
            for stale in (self.root / name, (self.root / name).with_suffix(".json")):
                stale.unlink(missing_ok=True)
        write_whole(self.root / "index.json", json.dumps(index, indent=1) + "\n")
        sums = "".join(f"{names[name]}  {name}\n" for name in sorted(names))
        write_whole(self.root / "SHA256SUMS", sums)
        if self._key is not None:
            write_whole(self.root / "SHA256SUMS.p7s", self._key.message(sums.encode()))
        else:
            (self.root / "SHA256SUMS.p7s").unlink(missing_ok=True)

    def remember(self, fleet: Fleet, kernels: Iterable[FleetKernel]) -> None:
        """What a run does, for the next one to go on with it."""
        write_whole(self._own / "fleet.json", json.dumps({"format": FORMAT, **_fleet_row(fleet, kernels)}))

    def remembered(self) -> tuple[Fleet, tuple[FleetKernel, ...]]:
        """What the last run here was to do; UsageError where there was none."""
        row = _document(self._own / "fleet.json")
        if row is None or row.get("format") != FORMAT:
            raise UsageError("no run has begun there that could be gone on with", where=self.root)
        return _fleet_of(row)

    def _module(self, result: CellResult) -> Path:
        return self.root / result.kernel / f"{result.fix}.ko"

    def _cell(self, key: str) -> Path:
        return self._own / "cells" / key[:2] / f"{key}.json"


def _document(path: Path) -> dict[str, Any] | None:
    try:
        row = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=path) from error
    return row if isinstance(row, dict) else None


def _listed(sums: Path) -> set[str]:
    try:
        return {line.partition("  ")[2] for line in sums.read_text().splitlines()}
    except FileNotFoundError:
        return set()


def _fleet_row(fleet: Fleet, kernels: Iterable[FleetKernel]) -> dict[str, Any]:
    def text(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, dict):
            return {key: text(item) for key, item in value.items()}
        return [text(item) for item in value] if isinstance(value, list | tuple) else value

    row: dict[str, Any] = text({**asdict(fleet), "pinned": [asdict(kernel) for kernel in kernels]})
    return row


def _fleet_of(row: Mapping[str, Any]) -> tuple[Fleet, tuple[FleetKernel, ...]]:
    def patches(rows: Iterable[Mapping[str, str]]) -> tuple[PatchText, ...]:
        return tuple(PatchText(patch["name"], base64.b64decode(patch["content"])) for patch in rows)

    def lists(given: Mapping[str, Any]) -> dict[str, Any]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}

    def files(given: Mapping[str, str] | None) -> ImageFiles | None:
        return ImageFiles(*(base64.b64decode(given[name]) for name in ("image", "config"))) if given else None

    fixes = tuple(
        FleetFix(**lists({**fix, "variants": [Variant(v["kernels"], patches(v["patches"])) for v in fix["variants"]]}))
        for fix in row["fixes"]
    )
    kernels = tuple(FleetKernel(**{**kernel, "files": files(kernel["files"])}) for kernel in row["pinned"])
    return Fleet(fixes, tuple(row["kernels"]), Demands(**lists(row["demands"]))), kernels

"""What a fleet is asked to do: fixes, kernels and demands, from a `fleet.toml` or from a directory of patches.

All of it is content: a fix holds the bytes of its patches, so that what is done with it depends on no file.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Final

from builder.acquire.bounds import read_input
from builder.acquire.series import PATCH_SUFFIXES, expand, read_series
from builder.emit import module_name
from builder.errors import Allowed, InputError, UsageError
from builder.image.derive import cpu_model


@dataclass(frozen=True, slots=True)
class PatchText:
    """A patch by its content; `name` is that of its file, for messages."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Variant:
    """A fix as some kernels need it: `kernels` is the beginning of their release or a pattern, empty for the others."""

    kernels: str
    patches: tuple[PatchText, ...]

    def fits(self, release: str) -> bool:
        """Whether it is for that release: `6.12` is for 6.12.30 and 6.12-rc1, not for 6.120."""
        if any(sign in self.kernels for sign in "*?["):
            return fnmatch.fnmatchcase(release, self.kernels)
        return not self.kernels or re.match(rf"{re.escape(self.kernels)}(?![0-9])", release) is not None


@dataclass(frozen=True, slots=True)
class FleetFix:
    """One fix: a patch or a series, in the variants that its kernels need.

    `run` are commands for the guest that show its effect, `load` modules that they need.
    """

    name: str
    variants: tuple[Variant, ...]
    subject: str = ""
    cve: str = ""
    allow: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    load: tuple[str, ...] = ()

    def patches_for(self, release: str) -> tuple[PatchText, ...]:
        """The patches of the variant that says most of the release; none where no variant is for it."""
        fitting = [variant for variant in self.variants if variant.fits(release)]
        return max(fitting, key=lambda variant: len(variant.kernels)).patches if fitting else ()


@dataclass(frozen=True, slots=True)
class Demands:
    """What is asked of every cell.

    `cpus` are the models that `check` is done on, none for no check; with `trial` each module is tried in a guest.
    `cumulative` names a module of all fixes together that each kernel gets too, empty for none. `signer` is the
    fingerprint of the certificate that modules are signed for, empty for unsigned ones.
    """

    cpus: tuple[str, ...] = ("max",)
    trial: bool = False
    replace: bool = False
    allow: tuple[str, ...] = ()
    cumulative: str = ""
    signer: str = ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Fixes times kernels; `kernels` are words that `kernels.resolve` understands."""

    fixes: tuple[FleetFix, ...]
    kernels: tuple[str, ...]
    demands: Demands = field(default_factory=Demands)


#: the tables of a fleet.toml: key -> the type of its value
_TOP: Final[Mapping[str, type | UnionType]] = {
    "kernels": list,
    "fixes": str,
    "check": list,
    "try": bool,
    "replace": bool,
    "allow": list,
    "cumulative": str,
    "fix": list,
}
_FIX: Final[Mapping[str, type | UnionType]] = {
    "name": str,
    "patch": str | list,
    "subject": str,
    "cve": str,
    "allow": list,
    "run": str | list,
    "load": list,
    "variants": dict,
}

_CVE: Final = re.compile(r"CVE-\d{4}-\d{4,}", re.IGNORECASE)
_VARIANT: Final = re.compile(r"(?P<name>.+?)\.(?P<kernels>\d+\.\d+[\w.+-]*)")


def read_fleet(path: Path) -> Fleet:
    """A `fleet.toml`; the paths in it are relative to it.

    Raises InputError, which names the key, for what is not understood.
    """
    try:
        text = read_input(path).decode()
        rows = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"is no TOML: {error}", where=path) from error
    _check(rows, _TOP, path, "")
    fixes = fixes_of(path.parent / rows["fixes"]) if "fixes" in rows else []
    for number, row in enumerate(rows.get("fix", ()), start=1):
        if not isinstance(row, dict):
            raise InputError(f"fix {number} is no table", where=path)
        _check(row, _FIX, path, f"fix {number}: ")
        fixes.append(_fix(row, path.parent, f"fix {number}", path))
    words = [word if "/" not in word else str(path.parent / word) for word in rows.get("kernels", ())]
    demands = Demands(
        cpus=tuple(rows.get("check", Demands().cpus)),
        trial=rows.get("try", False),
        replace=rows.get("replace", False),
        allow=tuple(rows.get("allow", ())),
        cumulative=rows.get("cumulative", ""),
    )
    return made(fixes, words, demands, where=path)


def made(fixes: Sequence[FleetFix], kernels: Sequence[str], demands: Demands, *, where: str | Path) -> Fleet:
    """The fleet of these parts.

    Raises InputError where one lacks, two fixes have one name, or a name cannot be a module's; UsageError for a CPU
    model or a refusal that is not known.
    """
    if not fixes:
        raise InputError("there is no fix", where=where)
    if not kernels:
        raise InputError("there is no kernel", where=where)
    names = [fix.name for fix in fixes] + [demands.cumulative] * bool(demands.cumulative)
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two fixes are called {name}", where=where)
        module_name(name)
    for cpu in demands.cpus:
        cpu_model(cpu)
    for fix in fixes:
        Allowed.parse([*fix.allow, *demands.allow])
    return Fleet(tuple(fixes), tuple(kernels), demands)


def _check(row: Mapping[str, Any], keys: Mapping[str, type | UnionType], path: Path, place: str) -> None:
    for key, value in row.items():
        if key not in keys:
            raise InputError(f"{place}{key} is not known; known are: {', '.join(sorted(keys))}", where=path)
        items = value if isinstance(value, list) and key != "fix" else []
        if not isinstance(value, keys[key]) or not all(isinstance(item, str) for item in items):
            kind = "tables, [[fix]]" if key == "fix" else _KINDS[keys[key]]
            raise InputError(f"{place}{key} is of another kind than it should be: {kind}", where=path)


_KINDS: Final[Mapping[type | UnionType, str]] = {
    str: "a text",
    bool: "true or false",
    list: "a list of texts",
    dict: "a table",
    str | list: "a text or a list of texts",
}


def _fix(row: Mapping[str, Any], folder: Path, place: str, path: Path) -> FleetFix:
    variants = dict(row.get("variants", {}))
    _check(variants, dict.fromkeys(variants, str | list), path, f"{place}: variants: ")
    if "patch" in row:
        variants[""] = row["patch"]
    named = {kernels: [folder / word for word in _words(given)] for kernels, given in variants.items()}
    if not named or not all(named.values()):
        raise InputError(f"{place} has no patch", where=path)
    main = next(iter(named.values()))[0]
    return fix_of(
        str(row.get("name") or plain_name(main)),
        named,
        subject=row.get("subject"),
        cve=row.get("cve"),
        allow=tuple(row.get("allow", ())),
        run=tuple(_words(row["run"])) if "run" in row else None,
        load=tuple(row["load"]) if "load" in row else None,
    )


def _words(given: object) -> list[str]:
    return [given] if isinstance(given, str) else [str(word) for word in given]  # type: ignore[attr-defined]


def plain_name(path: Path) -> str:
    """What a fix is called by the name of its patch: letters, digits and `_`, as in the name of a module."""
    stem = path.name.removesuffix(path.suffix) if path.suffix in PATCH_SUFFIXES else path.name
    return re.sub(r"[^A-Za-z0-9_]", "_", stem)[:51] or "fix"


def fix_of(
    name: str,
    variants: Mapping[str, Sequence[Path]],
    *,
    subject: str | None = None,
    cve: str | None = None,
    allow: tuple[str, ...] = (),
    run: tuple[str, ...] | None = None,
    load: tuple[str, ...] | None = None,
) -> FleetFix:
    """A fix from the files of its variants (by kernels, `""` for all others).

    What is not given is read from the head of the first patch, that for all other kernels if there is one: the first
    line or a mail's subject, a CVE, and the lines `Run:` and `Load:`.
    """
    texts = {
        kernels: tuple(PatchText(file.name, read_input(file)) for file in expand(files))
        for kernels, files in variants.items()
    }
    for kernels, patches in texts.items():
        if not patches:
            raise InputError("there is no patch", where=str(variants[kernels]))
    first = texts.get("", next(iter(texts.values())))[0]
    head = re.split(r"^(?:---|diff|Index:) ", first.content.decode("utf-8", "replace"), maxsplit=1, flags=re.M)[0]
    head = head.replace("\\\n", "")
    fields: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(Subject|Run|Load): *(.*(?:\n[ \t]+.*)*)$", head, flags=re.MULTILINE):
        fields.setdefault(key, []).append(" ".join(value.split()))
    title = fields.get("Subject", [head.strip().split("\n", 1)[0]])[0]
    found = _CVE.search(f"{first.name} {head}")
    return FleetFix(
        name=name,
        variants=tuple(Variant(kernels, patches) for kernels, patches in texts.items()),
        subject=re.sub(r"^\[PATCH[^]]*\] *", "", title) if subject is None else subject,
        cve=(found[0].upper() if found else "") if cve is None else cve,
        allow=allow,
        run=tuple(fields.get("Run", ())) if run is None else run,
        load=tuple(word for text in fields.get("Load", ()) for word in text.split()) if load is None else load,
    )


def fixes_of(folder: Path) -> list[FleetFix]:
    """The fixes of a directory: each patch one, `NAME.6.12.patch` the variant of NAME for 6.12; a folder with a file
    `series` is a fix of several patches.

    Raises UsageError where there is no such directory or no fix in it, and for two patches of one name.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no directory {folder}")
    listed = read_series(folder / "series") if (folder / "series").is_file() else []
    inside = [p for p in sorted(folder.iterdir()) if not p.name.startswith(".")]
    found = listed + [p for p in inside if p not in listed and (p.suffix in PATCH_SUFFIXES or _is_series(p))]
    groups: dict[str, dict[str, list[Path]]] = {}
    for path in found:
        stem = path.name.removesuffix(path.suffix) if path.suffix in PATCH_SUFFIXES else path.name
        match = _VARIANT.fullmatch(stem)
        name, kernels = (match["name"], match["kernels"]) if match else (stem, "")
        (known,) = groups.setdefault(name, {}).setdefault(kernels, [path])
        if known != path:
            raise UsageError(f"{known.name} and {path.name} are both the fix {name}", where=folder)
    if not groups:
        raise UsageError(f"there are no patches in {folder}")
    names = _distinct(groups)
    return [fix_of(names[stem], variants) for stem, variants in groups.items()]


def _is_series(path: Path) -> bool:
    return path.is_dir() and (path / "series").is_file()


def _distinct(stems: Iterable[str]) -> dict[str, str]:
    """Stem -> name of the fix; names that come out alike are told apart by a number."""
    names: dict[str, str] = {}
    for stem in stems:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", stem)[:51] or "fix"
        name, count = plain, 1
        while name in names.values():
            count += 1
            name = f"{plain}_{count}"
        names[stem] = name
    return names

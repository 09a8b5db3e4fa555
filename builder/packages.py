"""Packages of livepatches: a tree, a .deb or an .rpm, all from the templates `templates/package.*`.

Modules lie below `usr/lib/NAME/RELEASE/`, by the release of the kernel that they are for, with a script that loads
those of the running kernel through `bespoke load` and a systemd unit that runs it at boot.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from builder.acquire import tools
from builder.acquire.whole import whole_file
from builder.binary import elf
from builder.binary.manifest import Manifest
from builder.binary.module import ModuleFile
from builder.errors import InputError, UsageError
from builder.templates import render

PackageKind = Literal["deb", "rpm", "dir"]
Tree = Mapping[str, tuple[bytes, int]]
"""Path in the file system, without the first slash -> content and mode."""

#: ELF machine -> what Debian and RPM call it
ARCHITECTURES: Final = {elf.EM_X86_64: ("amd64", "x86_64")}
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]+")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~]*")
_MAINTAINER = re.compile(r"[^<>\n]+ <[^<>@\s]+@[^<>@\s]+>")
_EPOCH: Final = 1_000_000_000
"""The time of all files where SOURCE_DATE_EPOCH says none: the same inputs give the same bytes."""


@dataclass(frozen=True, slots=True)
class PackagedModule:
    """A module of ours as it is shipped."""

    name: str
    release: str
    functions: tuple[str, ...]
    machine: int
    content: bytes

    @classmethod
    def read(cls, path: Path) -> PackagedModule:
        """InputError for what is no livepatch of ours: `bespoke load` takes no other."""
        module = ModuleFile.read_named(path)
        manifest = Manifest.within(module.object)
        if manifest is None:
            raise InputError("has no manifest: only livepatches that bespoke has built can be packaged", where=path)
        names = tuple(function.name for function in manifest.redirected)
        return cls(manifest.name, manifest.kernel.release, names, module.object.machine, path.read_bytes())


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """What is asked of a package; UsageError for a name, version or maintainer that package managers do not take."""

    name: str
    version: str
    maintainer: str

    def __post_init__(self) -> None:
        for what, text, form in (
            ("name", self.name, _NAME),
            ("version", self.version, _VERSION),
            ("maintainer", self.maintainer, _MAINTAINER),
        ):
            if not form.fullmatch(text):
                raise UsageError(f"{text!r} cannot be the {what} of a package: {_FORMS[what]}")


_FORMS = {
    "name": "small letters, digits and + - . of at least two characters",
    "version": "a digit, then letters, digits and . + ~",
    "maintainer": "say --maintainer 'NAME <MAIL>', or DEBFULLNAME and DEBEMAIL in the environment",
}


def package(modules: Sequence[PackagedModule], plan: PackagePlan, kind: PackageKind, output: Path) -> Path:
    """Write the package and return what was written: `output`, or a file of the usual name in that directory.

    The order of the modules is that of loading. Raises UsageError for two modules of one name and kernel, for modules
    of several machines and for a directory that has something in it, MissingToolError without dpkg-deb or rpmbuild.
    """
    keys = [(module.release, module.name) for module in modules]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UsageError(f"two modules are called {twice[1]} and for {twice[0]}")
    machines = {module.machine for module in modules}
    if len(machines) != 1 or not machines <= ARCHITECTURES.keys():
        raise UsageError("the modules are for different machines, or for one that is not known")
    deb, rpm = ARCHITECTURES[machines.pop()]
    values = _values(modules, plan)
    if kind == "dir":
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UsageError(f"{output} is there already, and no empty directory")
        if not output.absolute().parent.is_dir():
            raise UsageError(f"there is no directory {output.parent}")
        with TemporaryDirectory(prefix=".bespoke-package-", dir=output.absolute().parent) as place:
            _write(dict(_tree(modules, plan, values)), Path(place, "root"))
            os.replace(Path(place, "root"), output)
        return output
    usual = f"{plan.name}_{plan.version}_{deb}.deb" if kind == "deb" else f"{plan.name}-{plan.version}-1.{rpm}.rpm"
    written = output / usual if output.is_dir() else output
    if not written.absolute().parent.is_dir():
        raise UsageError(f"there is no directory {written.parent}")
    with TemporaryDirectory(prefix="bespoke-package-") as place, whole_file(written) as out:
        make = _deb if kind == "deb" else _rpm
        make(Path(place), dict(_tree(modules, plan, values)), plan, {**values, "deb": deb, "rpm": rpm}, out)
    return written


def _values(modules: Sequence[PackagedModule], plan: PackagePlan) -> dict[str, Any]:
    """What the templates are given."""
    return {
        "package": plan.name,
        "version": plan.version,
        "maintainer": plan.maintainer,
        "folder": f"/usr/lib/{plan.name}",
        "releases": sorted({module.release for module in modules}),
        "modules": modules,
        "date": datetime.fromtimestamp(_epoch(), UTC),
    }


def _tree(
    modules: Sequence[PackagedModule], plan: PackagePlan, values: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """What all kinds of package have in common."""
    folder = f"usr/lib/{plan.name}"
    order: dict[str, list[str]] = {}
    for module in modules:
        order.setdefault(module.release, []).append(module.name)
        yield f"{folder}/{module.release}/{module.name}.ko", (module.content, 0o644)
    for release, names in order.items():
        yield f"{folder}/{release}/order", ("".join(f"{name}\n" for name in names).encode(), 0o644)
    yield f"{folder}/livepatch", (render("package.sh.j2", **values).encode(), 0o755)
    yield f"usr/lib/systemd/system/{plan.name}.service", (render("package.service.j2", **values).encode(), 0o644)


def _write(tree: Tree, root: Path) -> None:
    for path, (content, mode) in sorted(tree.items()):
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)
        os.utime(place, (_epoch(), _epoch()))
    for place in (root, *root.rglob("*")):
        if place.is_dir():
            place.chmod(0o755)
            os.utime(place, (_epoch(), _epoch()))


_PROGRAMS: Final[Mapping[PackageKind, str]] = {"deb": "dpkg-deb", "rpm": "rpmbuild"}


def need_packager(kind: PackageKind) -> None:
    """MissingToolError where the program is lacking that makes packages of that kind."""
    if kind in _PROGRAMS:
        tools.need([_PROGRAMS[kind]], purpose=f"making a package ({kind})")


def usual_maintainer(kind: PackageKind) -> str:
    """That of the environment, as Debian's tools take it; a tree of files names nobody."""
    name, mail = os.environ.get("DEBFULLNAME", ""), os.environ.get("DEBEMAIL", "")
    return f"{name} <{mail}>" if kind != "dir" or (name and mail) else "nobody <nobody@localhost>"


def _deb(place: Path, tree: Tree, plan: PackagePlan, values: Mapping[str, Any], out: Path) -> None:
    need_packager("deb")
    docs = f"usr/share/doc/{plan.name}"
    text = render("package.changelog.j2", **values).encode()
    tree = {
        **tree,
        f"{docs}/changelog.gz": (gzip.compress(text, 9, mtime=0), 0o644),
        f"{docs}/copyright": (render("package.copyright.j2", **values).encode(), 0o644),
        "DEBIAN/control": (render("package.control.j2", **values).encode(), 0o644),
        **{f"DEBIAN/{name}": (render(f"package.{name}.j2", **values).encode(), 0o755) for name in _SCRIPTS},
    }
    root = place / "root"
    _write(tree, root)
    tools.run(["dpkg-deb", "--root-owner-group", "--uniform-compression", "-Zxz", "--build", str(root), str(out)],
              env={"SOURCE_DATE_EPOCH": str(_epoch())})  # fmt: skip


_SCRIPTS = ("postinst", "prerm", "postrm")


def _rpm(place: Path, tree: Tree, plan: PackagePlan, values: Mapping[str, Any], out: Path) -> None:
    need_packager("rpm")
    root = place / "root"
    _write(tree, root)
    spec = place / f"{plan.name}.spec"
    spec.write_text(render("package.spec.j2", **values, tree=root, files=sorted(tree)))
    words = ["--quiet", "--define", f"_topdir {place}/rpm", "--target", values["rpm"]]
    env = {"SOURCE_DATE_EPOCH": str(_epoch()), "HOME": str(place)}
    tools.run(["rpmbuild", "-bb", *words, spec], env=env)
    (made,) = (place / "rpm/RPMS").rglob("*.rpm")
    shutil.copyfile(made, out)


def _epoch() -> int:
    """The time that the files have, in seconds."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isdecimal() else _EPOCH

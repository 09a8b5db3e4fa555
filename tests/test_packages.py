"""Packages: what is in them, what the distributions' own checkers say, and that they load only on their kernels."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.cli import run
from builder.errors import InputError, UsageError
from builder.packages import PackagedModule, PackagePlan, package
from tests.conftest import need
from tests.docs.forms import broken_livepatch

pytestmark = pytest.mark.kernel

PLAN = PackagePlan("livepatch-broken", "1.2", "A Person <a.person@example.com>")
NAME = "broken_patch"
INHERENT = {
    "unstripped-binary-or-object", "statically-linked-binary", "missing-PT_GNU_STACK-section",  # of every kernel module
    "no-signature", "no-documentation",  # who publishes it signs it; the unit and the page of `bespoke` document it
    "invalid-license",  # this rpmlint's list knows no SPDX
    "files-duplicate",  # two kernels may have the same modules in the same order
}  # fmt: skip
"""What rpmlint says of every package of modules."""

Said = Callable[..., str]


@pytest.fixture(scope="module")
def modules(release_61: str, release_612: str, tmp_path_factory: pytest.TempPathFactory) -> list[PackagedModule]:
    """A livepatch of the sample module for each of two kernels."""
    found = []
    for release in (release_61, release_612):
        place = tmp_path_factory.mktemp("modules") / f"{NAME}.ko"
        place.write_bytes(broken_livepatch(release).forms["intact"])
        found.append(PackagedModule.read(place))
    return found


def told(*words: object, check: bool = True) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_tree_has_modules_by_kernel_a_script_and_a_unit(
    modules: list[PackagedModule], release_61: str, release_612: str, tmp_path: Path
) -> None:
    root = package(modules, PLAN, "dir", tmp_path / "tree")
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    folder = f"usr/lib/{PLAN.name}"
    assert files == {
        f"usr/lib/systemd/system/{PLAN.name}.service",
        f"{folder}/livepatch",
        *(f"{folder}/{release}/{name}" for release in (release_61, release_612) for name in (f"{NAME}.ko", "order")),
    }
    assert (root / folder / release_61 / f"{NAME}.ko").read_bytes() == modules[0].content
    assert os.access(root / folder / "livepatch", os.X_OK)
    told("sh", "-n", root / folder / "livepatch")


def test_systemd_has_nothing_against_the_unit(modules: list[PackagedModule], tmp_path: Path) -> None:
    need("systemd-analyze")
    root = package(modules, PLAN, "dir", tmp_path / "tree")
    unit = tmp_path / f"{PLAN.name}.service"
    text = (root / f"usr/lib/systemd/system/{PLAN.name}.service").read_text()
    unit.write_text(text.replace("=/usr/lib", f"={root}/usr/lib"))  # where its program is here
    assert told("systemd-analyze", "verify", unit) == ""
    unit.write_text(unit.read_text().replace("Type=oneshot", "Type=once"))
    assert "service type" in told("systemd-analyze", "verify", unit, check=False)


@pytest.mark.parametrize("kind", ["deb", "rpm"])
def test_the_same_package_each_time(
    modules: list[PackagedModule], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("dpkg-deb" if kind == "deb" else "rpmbuild")
    made = []
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        written = package(modules, PLAN, kind, tmp_path / number)  # type: ignore[arg-type]
        made.append((written.name, written.read_bytes()))
        assert [path.name for path in (tmp_path / number).iterdir()] == [written.name]
    assert made[0] == made[1]
    assert made[0][0] == {"deb": f"{PLAN.name}_1.2_amd64.deb", "rpm": f"{PLAN.name}-1.2-1.x86_64.rpm"}[kind]


def test_lintian_has_nothing_against_the_deb(modules: list[PackagedModule], tmp_path: Path) -> None:
    need("dpkg-deb", "lintian")
    deb = package(modules, PLAN, "deb", tmp_path)
    assert [
        line for line in told("lintian", "--allow-root", deb, check=False).splitlines() if line[:2] in ("E:", "W:")
    ] == []


def test_rpmlint_says_only_what_it_says_of_all_kernel_modules(modules: list[PackagedModule], tmp_path: Path) -> None:
    need("rpmbuild", "rpmlint")
    rpm = package(modules, PLAN, "rpm", tmp_path)
    said = [line.split() for line in told("rpmlint", rpm, check=False).splitlines() if line.startswith(PLAN.name)]
    assert {words[2] for words in said} <= INHERENT, said
    scripts = told("rpm", "-qp", "--scripts", rpm)
    assert f"{PLAN.name}.service" in scripts and "livepatch unload || exit 1" in scripts


def test_dpkg_installs_enables_and_removes_it(modules: list[PackagedModule], tmp_path: Path) -> None:
    """In a root of its own, whose scripts run by DPKG_ROOT."""
    need("dpkg", "deb-systemd-helper")
    deb, root = package(modules, PLAN, "deb", tmp_path), tmp_path / "root"
    for folder in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "etc/systemd/system"):
        (root / folder).mkdir(parents=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    force = ("--force-not-root", "--force-script-chrootless", "--log=/dev/null")
    dpkg = ("dpkg", f"--root={root}", *force)
    wanted = root / f"etc/systemd/system/multi-user.target.wants/{PLAN.name}.service"
    told(*dpkg, "--install", deb)
    assert (root / f"usr/lib/{PLAN.name}/livepatch").is_file() and wanted.is_symlink()
    told(*dpkg, "--purge", PLAN.name)
    assert not (root / f"usr/lib/{PLAN.name}").exists() and not wanted.is_symlink()


def test_what_cannot_be_packed_is_named(
    modules: list[PackagedModule], release_61: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = broken_livepatch(release_61).target
    assert target is not None
    with pytest.raises(InputError, match="has no manifest"):
        PackagedModule.read(target)
    with pytest.raises(UsageError, match=f"two modules are called {NAME}"):
        package([modules[0], modules[0]], PLAN, "dir", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(UsageError, match="no empty directory"):
        package(modules, PLAN, "dir", tmp_path / "full")
    for name, version, maintainer, what in (
        ("Upper", "1", PLAN.maintainer, "name"),
        ("ok", "v1", PLAN.maintainer, "version"),
        ("ok", "1", " <>", "maintainer"),
    ):
        with pytest.raises(UsageError, match=f"cannot be the {what} of a package"):
            PackagePlan(name, version, maintainer)
    (tmp_path / f"{NAME}.ko").write_bytes(modules[0].content)
    assert run(["package", str(tmp_path / f"{NAME}.ko"), "--dir", "-o", str(tmp_path / "tree"), "--json"]) == 0
    assert f'"kernel": "{release_61}"' in capsys.readouterr().out

"""What a fleet.toml and a directory of patches say."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BespokeError
from builder.fleet.spec import Fleet, Variant, fixes_of, read_fleet
from samples.fixes import PATCHES

PATCH = "--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    ("kernels", "release", "fits"),
    [
        ("", "6.1.0-50-amd64", True),
        ("6.1", "6.1.0-50-amd64", True),
        ("6.1", "6.12.30-amd64", False),
        ("6.1.0-5", "6.1.0-50-amd64", False),
        ("6.1.0-50", "6.1.0-50-rt-amd64", True),
        ("*-rt-*", "6.1.0-50-rt-amd64", True),
        ("6.*-cloud-amd64", "6.1.0-50-amd64", False),
    ],
)
def test_the_kernels_of_a_variant(kernels: str, release: str, fits: bool) -> None:
    assert Variant(kernels, ()).fits(release) is fits


def test_a_directory(tmp_path: Path) -> None:
    for name in ("CVE-2026-12345-uaf.patch", "b.patch", "b.6.12.patch", "b.6.12.30.patch", "note.txt", ".x.patch"):
        (tmp_path / name).write_text(f"[PATCH 1/2] of {name}\n\nRun: cat /proc/x\nLoad: dummy zram\n\n{PATCH}")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/one.patch").write_text(f"From: x\nSubject: [PATCH v2] two\n lines\n\n{PATCH}")
    (tmp_path / "more/two.patch").write_text(PATCH)
    (tmp_path / "more/series").write_text("two.patch\none.patch\n")
    cve, b, more = fixes_of(tmp_path)
    assert (cve.name, cve.cve, cve.run, cve.load) == (
        "CVE_2026_12345_uaf", "CVE-2026-12345", ("cat /proc/x",), ("dummy", "zram"),
    )  # fmt: skip
    assert (b.name, b.subject, len(b.variants)) == ("b", "of b.patch", 3)
    chosen = [b.patches_for(release)[0].name for release in ("6.1.0-50-amd64", "6.12.1-a", "6.12.30-a")]
    assert chosen == ["b.patch", "b.6.12.patch", "b.6.12.30.patch"]
    assert [patch.name for patch in more.patches_for("6.1")] == ["two.patch", "one.patch"]


def test_two_patches_of_one_name_are_told(tmp_path: Path) -> None:
    for name in ("a.patch", "b.6.12.patch", "b.6.12.diff"):
        (tmp_path / name).write_text(PATCH)
    with pytest.raises(BespokeError, match=r"b\.6\.12\.diff and b\.6\.12\.patch are both the fix b"):
        fixes_of(tmp_path)


def test_the_order_of_a_series_is_that_of_its_fixes() -> None:
    assert [fix.name for fix in fixes_of(PATCHES)][:2] == ["01_meminfo_string", "02_mtu_bounds"]


def written(folder: Path, text: str) -> Fleet:
    (folder / "fleet.toml").write_text(text)
    (folder / "a.patch").write_text(PATCH)
    return read_fleet(folder / "fleet.toml")


def test_a_fleet(tmp_path: Path) -> None:
    fleet = written(
        tmp_path,
        """
        kernels = ["6.1.0-50-amd64", "images/vmlinuz"]
        check = ["max", "Nehalem"]
        try = true
        cumulative = "all_of_it"
        [[fix]]
        name = "first"
        cve = "CVE-2026-1"
        run = "true"
        [fix.variants]
        "6.12" = "a.patch"
        [[fix]]
        patch = ["a.patch", "a.patch"]
        allow = ["init-changed:x"]
        """,
    )
    assert fleet.kernels == ("6.1.0-50-amd64", str(tmp_path / "images/vmlinuz"))
    assert fleet.demands.cpus == ("max", "Nehalem") and fleet.demands.trial
    first, second = fleet.fixes
    assert (first.name, first.cve, first.run, first.patches_for("6.1.0")) == ("first", "CVE-2026-1", ("true",), ())
    assert second.name == "a" and len(second.patches_for("6.1")) == 2 and second.allow == ("init-changed:x",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kernels = [", "is no TOML"),
        ("kernel = []", "kernel is not known; known are: allow,"),
        ("kernels = ['6.1.0-1-amd64']", "there is no fix"),
        ("fix = [{patch = 'a.patch'}]", "there is no kernel"),
        ("kernels = [1]\nfix = [{patch = 'a.patch'}]", "kernels is of another kind"),
        ("kernels = 'x'", "kernels is of another kind than it should be: a list of texts"),
        ("try = 1", "try is of another kind than it should be: true or false"),
        ("fix = {patch = 'a.patch'}", "fix is of another kind than it should be: tables"),
        ("kernels = ['x']\nfix = [{patch = []}]", "fix 1 has no patch"),
        ("kernels = ['x']\nfix = [{variants = {}}]", "fix 1 has no patch"),
        (
            "kernels = ['x']\nfix = [{variants = {'6.12' = 3}}]",
            "fix 1: variants: 6.12 is of another kind.*a text or a list",
        ),
        ("kernels = ['x']\nfix = [{variants = {'6.12' = []}}]", "fix 1 has no patch"),
        (
            "kernels = ['x']\ncheck = ['Nehalm']\nfix = [{patch = 'a.patch'}]",
            "unknown CPU model 'Nehalm'; known are .*Nehalem",
        ),
        ("kernels = ['x']\nfix = [{patch = 3}]", "fix 1: patch is of another kind"),
        ("kernels = ['x']\nfix = [{name = 'x'}]", "fix 1 has no patch"),
        ("kernels = ['x']\nfix = [{patch = 'a.patch', cvss = 3}]", "fix 1: cvss is not known"),
        ("kernels = ['x']\nfix = [{patch = 'a.patch'}, {patch = 'a.patch'}]", "two fixes are called a"),
        ("kernels = ['x']\nfix = [{patch = 'a.patch', name = 'ä'}]", "cannot be a module's name"),
        ("kernels = ['x']\nfix = [{patch = 'a.patch', allow = ['x']}]", "--allow takes CODE:SYMBOL"),
        ("kernels = ['x']\nfix = [{patch = 'b.patch'}]", "there is no file"),
        ("kernels = ['x']\nfix = ['a.patch']", "fix 1 is no table"),
        ("kernels = ['x']\nfixes = 'none'", "there is no directory"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BespokeError, match=said):
        written(tmp_path, text)

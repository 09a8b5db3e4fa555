"""`bespoke fleet` with real fixes for a real kernel: what single runs make, and a report of it."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from builder.acquire.source import SourceTree, fetch_source
from builder.fleet.store import Store
from samples.fixes import PATCHES
from tests.cli.conftest import Bespoke
from tests.conftest import need, needed

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.timeout(900)]

FIX = "01-meminfo-string.patch"


@pytest.fixture(scope="module")
def tree(release_61: str) -> SourceTree:
    with needed():
        return fetch_source(release_61)


def changed(name: str, old: str, new: str) -> str:
    assert old != new
    lines = old.splitlines(keepends=True), new.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*lines, f"a/fs/proc/{name}", f"b/fs/proc/{name}"))


def test_a_fleet_and_a_single_run(bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path) -> None:
    fixes, out = tmp_path / "fixes", tmp_path / "out"
    fixes.mkdir()
    shutil.copy(PATCHES / FIX, fixes)
    uptime, makefile = ((tree.root / f"fs/proc/{name}").read_text() for name in ("uptime.c", "Makefile"))
    (fixes / "had.patch").write_text(changed("uptime.c", uptime.replace("idle_nsec = 0;", ""), uptime))
    (fixes / "makefile.patch").write_text(changed("Makefile", makefile, f"{makefile}obj-y += more.o\n"))
    shutil.copy(PATCHES / FIX, fixes / "elsewhere.99.1.patch")
    packed = ("--deb", "--maintainer", "A Person <a.person@example.com>")
    words = ("fleet", "--fixes", fixes, "--kernels", release_61, "-o", out, "--workers", 1, *packed)
    planned = bespoke(*words, "--plan", "--json").document
    assert (planned["cells"], planned["to_do"], planned["kernels"][0]["prepared"]) == (4, 3, True)
    ran = bespoke(*words, "--json", timeout=600)
    rows = [json.loads(line) for line in ran.out.splitlines()]
    cells = {row["fix"]: row for row in rows if row["event"] == "cell"}
    verdicts = {fix: row["verdict"] for fix, row in cells.items()}
    assert verdicts == {
        "01_meminfo_string": "shipped", "had": "has-it", "elsewhere": "not-meant", "makefile": "refused",
    }, ran.err  # fmt: skip
    assert ran.status == 1 and rows[-1]["event"] == "end" and rows[-1]["counts"]["shipped"] == 1
    assert cells["01_meminfo_string"]["checks"][0]["cpu"] == "max"
    alone = tmp_path / "01_meminfo_string.ko"
    assert bespoke("patch", fixes / FIX, "--kernel", release_61, "-o", alone, timeout=600).status == 0
    assert (out / release_61 / alone.name).read_bytes() == alone.read_bytes()
    subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=out, check=True, capture_output=True)
    package = out / "packages/livepatch-01-meminfo-string_1_amd64.deb"
    assert package.is_file() and package.name in (out / "SHA256SUMS").read_text()
    assert "patch-makefile" in (out / "report/index.html").read_text()
    again = bespoke("fleet", "--resume", "-o", out, "--plan", "--json").document
    assert (again["cells"], again["to_do"]) == (4, 0)
    assert {order.name for order in Store(out).remembered()[0].fixes} == set(cells)


@pytest.mark.long
@pytest.mark.guest
def test_tried_signed_and_all_together(bespoke: Bespoke, tree: SourceTree, release_61: str, tmp_path: Path) -> None:
    """Each fix's own command shows its effect in a guest; signed modules are the bytes of signed single runs."""
    need("openssl")
    pair = tmp_path / "k.pem", tmp_path / "k.crt"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=fleet", "-days", "2"]
    subprocess.run([*request, "-keyout", pair[0], "-out", pair[1]], check=True, capture_output=True)
    sign = ("--sign-key", pair[0], "--sign-cert", pair[1])
    uptime = (tree.root / "fs/proc/uptime.c").read_text()
    (tmp_path / "uptime.patch").write_text(changed("uptime.c", uptime, uptime.replace("lu\\n", "lu s\\n")))
    (tmp_path / "fleet.toml").write_text(
        f"""
        kernels = ["{release_61}"]
        try = true
        cumulative = "all_of_it"
        [[fix]]
        name = "meminfo"
        patch = "{PATCHES / FIX}"
        [[fix]]
        patch = "uptime.patch"
        run = "cat /proc/uptime"
        """
    )
    out = tmp_path / "out"
    ran = bespoke("fleet", tmp_path / "fleet.toml", "-o", out, "--workers", 1, *sign, "--json", timeout=600)
    cells = {row["fix"]: row for row in map(json.loads, ran.out.splitlines()) if row["event"] == "cell"}
    assert {row["verdict"] for row in cells.values()} == {"shipped"} and ran.status == 0, ran.err
    told = {fix: {row["command"]: row for row in cell["trial"]["commands"]} for fix, cell in cells.items()}
    assert len(told["all_of_it"]) == 2
    for fix, name in (("meminfo", "grep -i percpu /proc/meminfo"), ("uptime", "cat /proc/uptime")):
        shown = "PerCpu" if fix == "meminfo" else " s\n"
        for commands in (told[fix], told["all_of_it"]):
            assert [shown in commands[name][phase] for phase in ("before", "with", "after")] == [False, True, False]
    patches = (PATCHES / FIX, tmp_path / "uptime.patch")
    for name, words in (("uptime", patches[1:]), ("all_of_it", patches)):
        alone = tmp_path / f"{name}.ko"
        assert bespoke("patch", *words, "--kernel", release_61, *sign, "-o", alone, timeout=600).status == 0
        assert (out / release_61 / alone.name).read_bytes() == alone.read_bytes()

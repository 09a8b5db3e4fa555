"""What scripts rely on: the documents of `--json`, the exit statuses, and who writes to which stream."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from builder.binary import read_object
from builder.binary.manifest import SECTION
from builder.binary.pair import is_same_file
from builder.compose.outcome import EXIT_STATUS
from builder.errors import InputError
from builder.pipeline import diff, diff_document
from tests.cli.conftest import Bespoke
from tests.conftest import data_root

pytestmark = pytest.mark.data

STATUS = {"changed": 0, "refused": 1, "unchanged": 3}
REFUSAL = {"code", "symbol", "section", "message", "advice"}
"""Strings; beside them stands `fatal`."""


def pairs() -> list[tuple[Path, Path]]:
    """Old and new object of every shared pair."""
    root, found = data_root(), list[tuple[Path, Path]]()
    for old in sorted(root.rglob("*orig.o")):
        new = old.with_name(old.name.replace("orig.o", "patched.o"))
        if new.is_file():
            found.append((old, new))
    return found


def name(row: tuple[Path, Path]) -> str:
    old = row[0]
    return str(old.relative_to(data_root()).parent) + ("" if old.name == "orig.o" else f"/{old.name}")


def strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def check_contract(document: dict[str, Any]) -> None:
    """Keys and types of one pair's document, and what they promise of each other."""
    assert document["verdict"] in STATUS
    assert isinstance(document["old"], str) and isinstance(document["new"], str)
    functions, data = document["functions"], document["data"]
    assert set(functions) == {"changed", "new", "removed", "line_only"}
    assert all(map(strings, functions.values())), functions
    assert set(data) == {"new", "changed"} and all(map(strings, data.values()))
    for rows in (document["refusals"], document["warnings"]):
        assert isinstance(rows, list)
        for row in rows:
            assert row.keys() - {"fatal"} == REFUSAL and all(isinstance(row[key], str) for key in REFUSAL)
            assert row["fatal"] in (True, False) and not (row["fatal"] and row in document["warnings"])
            assert row["code"] and row["message"] and row["advice"]
    assert isinstance(document["children"], dict) and all(map(strings, document["children"].values()))
    assert isinstance(document["carriers"], dict) and all(map(strings, document["carriers"].values()))
    assert all(isinstance(text, str) and text for text in document["reasons"].values())
    listed = [*functions["changed"], *functions["new"], *functions["line_only"]]
    assert not any(text.endswith(".cold") for text in listed), "cold parts belong to their parents"
    assert len(set(listed)) == len(listed)
    assert (document["verdict"] == "refused") == bool(document["refusals"])
    if document["verdict"] == "unchanged":
        assert not functions["changed"] and not functions["new"]
    else:
        # aliases of one function share its reason
        assert set(document["reasons"]) <= {*listed, *(c for row in document["carriers"].values() for c in row)}


@pytest.mark.parametrize("row", pairs(), ids=name)
def test_the_document_of_every_pair(row: tuple[Path, Path]) -> None:
    found = diff(*row)
    document = json.loads(json.dumps(found.as_json()))
    check_contract(document)
    assert EXIT_STATUS[found.verdict] == STATUS[document["verdict"]]


@pytest.mark.parametrize("row", pairs()[::8], ids=name)
def test_files_of_the_same_bytes_are_settled_without_a_look(row: tuple[Path, Path], tmp_path: Path) -> None:
    """As the comparison has it; one bit that differs, and what is no object for it, is for the comparison to say."""
    old, new = tmp_path / "old.o", tmp_path / "new.o"
    data = row[0].read_bytes()
    old.write_bytes(data)
    new.write_bytes(data)
    assert is_same_file(old, new)
    assert diff_document(old, new) == diff(old, new).as_json()
    draw = random.Random(row[0].parent.name)
    for at in (*draw.sample(range(len(data)), 20), len(data) - 1):
        new.write_bytes(data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :])
        assert not is_same_file(old, new)
    for other in (data[:-1], data + b"\0"):
        new.write_bytes(other)
        assert not is_same_file(old, new)
    for at, byte in ((0, 0), (4, 1), (5, 2), (16, 2), (18, 183)):  # e_ident, e_type, e_machine
        wrong = data[:at] + bytes([byte]) + data[at + 1 :]
        old.write_bytes(wrong)
        new.write_bytes(wrong)
        assert not is_same_file(old, new)
        with pytest.raises(InputError):
            diff_document(old, new)
    for size in (len(data) // 2, len(data) - 1):  # cut off, both alike
        old.write_bytes(data[:size])
        new.write_bytes(data[:size])
        with pytest.raises(InputError):
            diff_document(old, new)


def test_diff_of_one_pair(bespoke: Bespoke, pair: Path) -> None:
    ran = bespoke("diff", pair / "orig.o", pair / "patched.o", "--json")
    assert ran.status == 0 and ran.err == ""
    check_contract(ran.document)
    assert ran.document["functions"]["changed"] == ["hugetlbfs_fill_super"]
    shown = bespoke("diff", pair / "orig.o", pair / "patched.o")
    assert shown.status == 0 and "hugetlbfs_fill_super" in shown.out and shown.err == ""
    quiet = bespoke("diff", pair / "orig.o", pair / "patched.o", "-q")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")


def test_nothing_changed(bespoke: Bespoke, pair: Path) -> None:
    ran = bespoke("diff", pair / "orig.o", pair / "orig.o", "--json")
    assert ran.status == 3 and ran.err == ""
    check_contract(ran.document)
    assert ran.document["verdict"] == "unchanged"


@pytest.mark.kernel
def test_nothing_to_build(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "fix.ko"
    words = ("build", pair / "orig.o", pair / "orig.o", "--kernel", image, "-o", out)
    ran = bespoke(*words, "--json")
    assert ran.status == 3 and ran.document["verdict"] == "unchanged"
    assert bespoke(*words).status == 3
    assert not out.exists()


def test_a_refused_pair(bespoke: Bespoke, pair: Path) -> None:
    folder = pair.parent / "drivers__net__ppp__ppp_async"
    objects = ("diff", folder / "orig.o", folder / "patched.o")
    ran = bespoke(*objects, "--json")
    assert ran.status == 1
    check_contract(ran.document)
    (refusal,) = ran.document["refusals"]
    assert (refusal["code"], refusal["symbol"]) == ("data-changed", "ppp_ldisc")
    allowed = bespoke(*objects, "--json", "--allow", "data-changed:ppp_ldisc")
    assert allowed.status == 0 and allowed.document["verdict"] == "changed"
    assert bespoke(*objects, "--allow", "data-changed:another").status == 1


@pytest.mark.kernel
def test_a_refused_build_says_why_on_both_streams(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path) -> None:
    folder, out = pair.parent / "drivers__net__ppp__ppp_async", tmp_path / "fix.ko"
    words = ("build", folder / "orig.o", folder / "patched.o", "--kernel", image, "-o", out)
    ran = bespoke(*words, "--json")
    assert ran.status == 1 and not out.exists()
    assert [row["code"] for row in ran.document["refusals"]] == ["data-changed"]
    assert all(set(row) == {*REFUSAL, "fatal"} for row in ran.document["refusals"])
    assert "refused: data-changed" in ran.err and "--allow data-changed:ppp_ldisc" in ran.err
    fatal = pair.parent / "kernel__trace__blktrace"
    ran = bespoke(
        "build",
        fatal / "orig.o",
        fatal / "patched.o",
        "--kernel",
        image,
        "-o",
        out,
        "--allow",
        "no-ftrace-file:__blk_add_trace",
    )
    assert ran.status == 1 and ran.out == "" and "no-ftrace-file" in ran.err and not out.exists()


@pytest.mark.kernel
def test_the_manifest_is_the_document_of_a_build(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "fix-2.ko"
    ran = bespoke("build", pair / "orig.o", pair / "patched.o", "--kernel", image, "-o", out, "--json")
    assert ran.status == 0 and ran.err == ""
    assert ran.document == json.loads(read_object(out).by_name[SECTION].data)
    assert ran.document["name"] == "fix_2" and ran.document["objects"] == ["vmlinux"]
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.kernel
def test_a_refused_build_tells_what_a_diff_tells(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path) -> None:
    """The functions and the warnings too, in the document and as text."""
    refused = pair.parent / "drivers__net__ppp__ppp_async"
    sides = []
    for name in ("orig.o", "patched.o"):
        sides.append(tmp_path / name)
        subprocess.run(["objcopy", "--strip-debug", refused / name, sides[-1]], check=True)
    words = (*sides, "--kernel", image, "-o", tmp_path / "fix.ko")
    plain, ran = bespoke("diff", *sides, "--json").document, bespoke("build", *words, "--json")
    assert ran.status == 1 and set(ran.document) == {"verdict", "functions", "refusals", "warnings"}
    assert ran.document["functions"] == plain["functions"] and plain["functions"]["changed"]
    assert ran.document["warnings"] == plain["warnings"] and "not-compared" in [w["code"] for w in plain["warnings"]]
    assert all(row in ran.document["refusals"] for row in plain["refusals"])
    shown = bespoke("build", *words)
    assert shown.status == 1 and shown.out == "" and "bespoke: warning: not-compared: " in shown.err


@pytest.mark.kernel
def test_a_module_takes_the_place_of_an_earlier_one(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path) -> None:
    """One that has no variables of its own loses no state: there is nothing to accept."""
    words = ("build", pair / "orig.o", pair / "patched.o", "--kernel", image, "--json")
    first, second = tmp_path / "v1.ko", tmp_path / "v2.ko"
    assert bespoke(*words, "-o", first).status == 0
    ran = bespoke(*words, "-o", second, "--on", first, "--replace")
    assert ran.status == 0, ran.err
    assert ran.document["replace"] is True and ran.document["accepted"] == [] and second.exists()


def tree(root: Path, **objects: Path) -> Path:
    for path, source in objects.items():
        place = root / f"{path.replace('__', '/')}.o"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    return root


@pytest.mark.parametrize("jobs", [1, 2])
def test_two_trees(bespoke: Bespoke, pair: Path, tmp_path: Path, jobs: int) -> None:
    """One pair of each kind; the exit status is the worst, and what cannot be read stops no other."""
    refused = pair.parent / "drivers__net__ppp__ppp_async"
    text = tmp_path / "text"
    text.write_text("no object")
    rows = {"fs__changed": pair, "net__refused": refused}
    old = tree(
        tmp_path / "old",
        same=pair / "orig.o",
        gone=pair / "orig.o",
        bad=pair / "orig.o",
        **{k: v / "orig.o" for k, v in rows.items()},
    )
    new = tree(tmp_path / "new", same=pair / "orig.o", bad=text, **{k: v / "patched.o" for k, v in rows.items()})
    ran = bespoke("diff", old, new, "--json", "-j", jobs)
    assert ran.status == 2
    assert set(ran.document) == {"pairs", "unpaired"} and ran.document["unpaired"] == ["gone.o"]
    verdicts = {row["path"]: row["verdict"] for row in ran.document["pairs"]}
    assert verdicts == {"bad.o": "error", "fs/changed.o": "changed", "net/refused.o": "refused", "same.o": "unchanged"}
    for row in ran.document["pairs"]:
        if row["verdict"] != "error":
            check_contract(row)
    (broken,) = [row for row in ran.document["pairs"] if row["verdict"] == "error"]
    assert "is not an ELF file" in broken["message"]
    for worst, gone in ((1, "bad.o"), (0, "net/refused.o"), (3, "fs/changed.o")):
        (old / gone).unlink()
        (new / gone).unlink(missing_ok=True)
        ran = bespoke("diff", old, new, "--json")
        assert ran.status == worst and ran.document["pairs"]
    assert bespoke("diff", old, new).status == 3


def members(session: int) -> int:
    """How many processes a session has."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(ProcessLookupError):
                count += os.getsid(int(entry.name)) == session
    return count


@pytest.mark.parametrize("moment", ["importing", "one process", "several processes"])
def test_an_interrupted_comparison(pair: Path, tmp_path: Path, moment: str) -> None:
    """The terminal interrupts all processes of the command; the first one says so, or has not begun."""
    old, new = tmp_path / "old", tmp_path / "new"
    for side, which in ((old, "orig.o"), (new, "patched.o")):
        side.mkdir()
        for kind in pair.parent.iterdir():
            for k in range(6):
                (side / f"{kind.name}{k}.o").symlink_to(kind / which)
    jobs = "2" if moment == "several processes" else "1"
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", "diff", old, new, "--json", "-j", jobs],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        while "iced_x86" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
        while moment == "several processes" and members(process.pid) < 4:  # with the tracker and the server
            assert process.poll() is None
        if moment == "one process":
            time.sleep(1.5)
        os.killpg(process.pid, signal.SIGINT)
        said, complaint = process.communicate(timeout=300)
    finally:
        process.kill()
    assert said == ""
    assert (process.returncode, complaint) in {(130, "bespoke: interrupted\n"), (-signal.SIGINT, "")}


def test_empty_trees(bespoke: Bespoke, tmp_path: Path) -> None:
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
    ran = bespoke("diff", tmp_path / "old", tmp_path / "new", "--json")
    assert ran.status == 3 and ran.document == {"pairs": [], "unpaired": []}


@pytest.mark.kernel
def test_a_module_of_several_pairs(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path) -> None:
    """Two trees, and two pairs by --pair: the same functions in one module; a tree that lacks one is refused."""
    other = pair.parent / "crypto__af_alg"
    rows = {"fs__inode": pair, "crypto__af_alg": other}
    old = tree(tmp_path / "old", **{k: v / "orig.o" for k, v in rows.items()})
    new = tree(tmp_path / "new", **{k: v / "patched.o" for k, v in rows.items()})
    ran = bespoke("build", old, new, "--kernel", image, "-o", tmp_path / "both.ko", "--json")
    assert ran.status == 0, ran.err
    assert ran.document["objects"] == ["af_alg", "vmlinux"]
    more = ("--pair", other / "orig.o", other / "patched.o")
    words = ("build", pair / "orig.o", pair / "patched.o", *more, "--kernel", image, "-o", tmp_path / "pairs.ko")
    said = bespoke(*words, "--json").document
    functions = {row["name"] for row in ran.document["functions"]}
    assert functions == {row["name"] for row in said["functions"]}
    assert {"af_alg_sendpage", "af_alg_get_rsgl", "hugetlbfs_fill_super"} <= functions
    (old / "fs/inode.o").unlink()
    assert "only one of the trees has fs/inode.o" in bespoke(*words[:1], old, new, *words[-4:]).problem()


def test_output_into_a_closed_pipe(pair: Path) -> None:
    """`bespoke diff | head -0` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "builder", "diff", pair / "orig.o", pair / "patched.o", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    os.close(write)
    assert done.stderr == "" and done.returncode == 2

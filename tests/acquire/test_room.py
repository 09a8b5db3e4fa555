"""The cache is kept within a size: what was used least goes first, and nothing that is in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.acquire.cache import cache_path, entry_lock, published, use_path
from builder.acquire.room import entries, prune, read_size
from builder.cli import run
from builder.errors import UsageError

HOLD = """
import sys
from builder.acquire.cache import cache_path
print(cache_path("unpacked", "held"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of four entries of 64 KiB that no process uses any more, `first` the oldest."""
    root = tmp_path / "cache"
    monkeypatch.setenv("BESPOKE_CACHE", str(root))
    monkeypatch.delenv("BESPOKE_CACHE_SIZE", raising=False)
    for age, (kind, name) in enumerate(
        [("unpacked", "first"), ("objects/tree", "key"), ("unpacked", "held"), ("source", "last")]
    ):
        published(kind, name, filled)
        lock = entry_lock(root, f"{kind.partition('/')[0]}/{'tree' if '/' in kind else name}")
        os.utime(lock, (1e9 + age, 1e9 + age))
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "another"))
    cache_path("source", "of another cache")  # so that this process lets go of all that it used
    monkeypatch.setenv("BESPOKE_CACHE", str(root))
    return root


def filled(place: Path) -> None:
    (place / "data").write_bytes(b"x" * 65536)


def names() -> list[str]:
    return [entry.key for entry in entries()]


ALL = ["unpacked/first", "objects/tree", "unpacked/held", "source/last"]


def test_the_oldest_go_first_and_no_more_than_needed(cache: Path) -> None:
    assert names() == ALL and not any(entry.busy for entry in entries())
    size = sum(entry.size for entry in entries())
    assert 4 * 65536 <= size < 5 * 65536
    gone, stay = prune(size)
    assert gone == [] and len(stay) == 4
    gone, stay = prune(size - 1)
    assert [entry.key for entry in gone] == ALL[:1] and [entry.key for entry in stay] == names() == ALL[1:]
    assert not (cache / "unpacked/first").exists() and not list((cache / "tmp").glob("pruned*"))


def test_what_is_used_is_young_and_stays(cache: Path) -> None:
    use_path(cache / "unpacked/first/data")
    assert names() == [*ALL[1:], ALL[0]] and [e.key for e in entries() if e.busy] == ["unpacked/first"]
    gone, stay = prune(0)
    assert [entry.key for entry in gone] == ALL[1:] and [entry.key for entry in stay] == ["unpacked/first"]
    assert (published("source", "last", filled) / "data").exists()  # made again
    assert prune(0)[0] == []


def test_what_another_process_uses_stays_until_that_ends(cache: Path) -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline().strip() == str(cache / "unpacked/held")
        assert [entry.key for entry in prune(0)[1]] == ["unpacked/held"]
        other.stdin.close()
    assert prune(0)[1] == []


def test_what_has_grown_is_measured_again(cache: Path) -> None:
    before = {entry.key: entry.size for entry in entries()}
    (cache / "objects/tree/another").write_bytes(b"x" * 65536)
    os.utime(entry_lock(cache, "objects/tree"), (2e9, 2e9))
    after = {entry.key: entry.size for entry in entries()}
    assert after.pop("objects/tree") == before.pop("objects/tree") + 65536 and after == before


def test_a_command_leaves_the_cache_within_its_size(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], plain_object: Callable[[], Path]
) -> None:
    monkeypatch.setenv("BESPOKE_CACHE_SIZE", "150K")
    path = str(plain_object())
    assert run(["diff", path, path, "-q"]) == 3
    assert names() == ALL[2:]
    monkeypatch.setenv("BESPOKE_CACHE_SIZE", "plenty")
    assert run(["diff", path, path, "-q"]) == 2
    assert "'plenty' is no size" in capsys.readouterr().err and names() == ALL[2:]


def test_the_command(cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [f"{row['kind']}/{row['name']}" for row in shown["entries"]] == ALL and shown["pruned"] == []
    assert shown["cache"] == str(cache) and shown["limit"] is None and shown["entries"][0]["used"] == 10**9
    assert run(["cache", "--prune"]) == 2 and "BESPOKE_CACHE_SIZE is not set" in capsys.readouterr().err
    assert run(["cache", "--prune", "150k", "--json"]) == 0
    pruned = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in pruned["pruned"]] == ["first", "tree"] and pruned["size"] <= pruned[
        "limit"
    ] == 153600
    assert run(["cache", "-v"]) == 0
    text = capsys.readouterr().out
    assert "prepared kernel source" in text and "last" in text and "first" not in text
    monkeypatch.setenv("BESPOKE_CACHE_SIZE", "80K")
    assert run(["cache", "--prune"]) == 0 and "1 taken away" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("20G", 20 << 30), ("1.5M", 3 << 19), ("7kib", 7168)])
def test_sizes(text: str, size: int) -> None:
    assert read_size(text, "--prune") == size


@pytest.mark.parametrize("text", ["", "-1", "G", "1 X", "1e3", "٣"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--prune.*no size"):
        read_size(text, "--prune")


@pytest.fixture
def plain_object(gcc: str, tmp_path: Path) -> Callable[[], Path]:
    """The object of one function."""

    def made() -> Path:
        source = tmp_path / "f.c"
        source.write_text("int f(void) { return 1; }\n")
        subprocess.run([gcc, "-c", "-ffunction-sections", source, "-o", tmp_path / "f.o"], check=True)
        return tmp_path / "f.o"

    return made

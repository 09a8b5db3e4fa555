"""The cache is never left broken: not by an error, a kill, a full disk or a second process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from builder.acquire.cache import cache_path, clean_name, locked, published, scratch
from builder.acquire.whole import write_whole
from builder.errors import ToolError


def fill(place: Path) -> None:
    (place / "file").write_text("whole")


def test_made_once_then_found(cache: Path) -> None:
    path = published("kind", "name", fill)
    assert path == cache_path("kind", "name") and (path / "file").read_text() == "whole"

    def never(place: Path) -> None:
        raise AssertionError

    assert published("kind", "name", never) == path


def test_a_failure_leaves_nothing(cache: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        published("kind", "name", fail)
    assert not cache_path("kind", "name").exists()
    assert not list((cache / "tmp").iterdir())
    assert (published("kind", "name", fill) / "file").is_file()


def hang(marker: str) -> None:
    def make(place: Path) -> None:
        (place / "half").write_text("x")
        Path(marker).write_text("started")
        time.sleep(60)

    published("kind", "name", make)


def test_a_killed_process_leaves_only_what_the_next_removes(cache: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    process = multiprocessing.get_context("fork").Process(target=hang, args=(str(marker),))
    process.start()
    while not marker.exists():
        time.sleep(0.01)
    assert process.pid is not None
    with scratch("other"):
        assert any(path.name.startswith("name.") for path in (cache / "tmp").iterdir())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not cache_path("kind", "name").exists()
    with scratch("next") as place:
        assert sorted(path.name for path in (cache / "tmp").iterdir()) == [place.name, f"{place.name}.inuse"]
    assert (published("kind", "name", fill) / "file").is_file()


def count(log: str) -> None:
    def make(place: Path) -> None:
        with open(log, "a") as handle:
            handle.write("x")
        time.sleep(0.05)
        fill(place)

    assert (published("kind", "name", make) / "file").is_file()


def test_many_processes_do_the_work_once(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=count, args=(str(log),)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text() == "x"


def test_write_whole_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    write_whole(path, "old")

    class Bad:
        def encode(self) -> bytes:
            raise AssertionError

    with pytest.raises((AssertionError, TypeError)):
        write_whole(path, Bad())  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_shared_locks_do_not_wait_for_each_other(cache: Path) -> None:
    with locked("tree", shared=True), locked("tree", shared=True):
        pass


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("6.12.117+deb12-amd64", "6.12.117+deb12-amd64"),
        ("a/b c", "a_b_c"),
        ("..", "_"),
        ("", "_"),
        ("1:2~rc1", "1_2~rc1"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert clean_name(text) == name


def test_a_cache_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(ToolError, match="cache directory"):
        cache_path("a", "b")

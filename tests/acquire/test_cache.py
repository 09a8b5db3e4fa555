"""The cache is never left broken: not by an error, a kill, a full disk or a second process."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
import zlib
from pathlib import Path

import pytest

from builder.acquire import apt, packages, sums
from builder.acquire.apt import Package, sha256_of
from builder.acquire.cache import cache_path, clean_name, locked, published, remove_tree, scratch
from builder.acquire.tools import run
from builder.acquire.whole import write_whole
from builder.errors import ToolError
from tests.conftest import need


def fill(place: Path) -> None:
    (place / "file").write_text("whole")


def test_made_once_then_found(cache: Path) -> None:
    path = published("kind", "name", fill)
    assert path == cache_path("kind", "name") and (path / "file").read_text() == "whole"

    def never(place: Path) -> None:
        raise AssertionError

    assert published("kind", "name", never) == path


def test_headers_that_an_earlier_version_laid_out_are_made_anew(cache: Path) -> None:
    package = "linux-headers-1.2-amd64"
    for place, version in ((f"{package}_1.2-1", "1.2-1"), (f"{package}_1.2-2_1", "1.2-2")):
        (cache / "headers" / place).mkdir(parents=True)
        write_whole(cache / "headers" / place / ".package", f"{package}\n{version}\n\n\n")
    assert packages._cached_headers("1.2-amd64") is None


@pytest.mark.parametrize("part", ["file", "below/other", ".sums", ""])
@pytest.mark.parametrize("how", ["flipped", "taken away", "another kind"])
def test_what_is_damaged_is_made_again(cache: Path, caplog: pytest.LogCaptureFixture, part: str, how: str) -> None:
    def make(place: Path) -> None:
        fill(place)
        (place / "below").mkdir()
        (place / "below/other").write_bytes(bytes(3 << 20))
        (place / "link").symlink_to("file")

    place = published("kind", "name", make)
    bad = place / part if part else place
    content = bytearray(bad.read_bytes()) if part else bytearray()
    remove_tree(bad)
    if how == "flipped" and part:
        content[len(content) // 2] ^= 1
        bad.write_bytes(content)
    elif how == "another kind":
        if part:
            bad.mkdir()
        else:
            bad.write_text("no directory")
    again = published("kind", "name", make)
    assert again == place and (again / "file").read_text() == "whole"
    assert (again / "below/other").read_bytes() == bytes(3 << 20)
    unnoticed = how != "another kind" and (not part or (part, how) == (".sums", "taken away"))
    assert any("the cache was damaged" in record.message for record in caplog.records) != unnoticed
    caplog.clear()
    assert published("kind", "name", make) == place and not caplog.records


def test_a_document_with_its_checksum(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "below/known"
    assert sums.read_json(path) is None and not caplog.records
    for value in ([False, "a"], {"x": 1}, None, "\udcff"):
        sums.write_json(path, value)
        assert sums.read_json(path) == value and not caplog.records
    for content in (path.read_bytes().replace(b"ff", b"fe"), b"", b"[]", b'{"crc": 1, "value": 2}', b"\xff"):
        path.write_bytes(content)
        assert sums.read_json(path) is None and caplog.records.pop().message.endswith(f"{path} is made again")
    path.unlink()
    path.mkdir()
    assert sums.read_json(path) is None
    sums.write_json(path, [1])
    assert sums.read_json(path) == [1]


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again as soon as it could be another: by its times, by its number, by the start of the machine."""
    path, other = tmp_path / "image", tmp_path / "other"
    reads: list[Path] = []
    checksum = sums.checksum

    def counted(path: Path, *, without: slice = slice(0, 0)) -> int:
        reads.append(path)
        return checksum(path, without=without)

    monkeypatch.setattr(sums, "checksum", counted)

    def read(count: int) -> int:
        del reads[:]
        found = sums.checksum_once(path)
        assert len(reads) == count
        return found

    path.write_bytes(b"whole")
    assert read(1) == read(1) == zlib.crc32(b"whole")  # just now
    monkeypatch.setattr(sums, "SETTLED", 0)
    assert read(1) == read(0) == zlib.crc32(b"whole")
    assert sums.checksum_once(path, without=slice(0, 1)) == zlib.crc32(b"\0hole")
    assert read(1) == read(0)
    state = path.stat()
    time.sleep(0.05)  # for a file system may give times by the tick
    path.write_bytes(b"whale")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read(1) == read(0) == zlib.crc32(b"whale")
    other.write_bytes(b"whole")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(path)
    assert read(1) == read(0) == zlib.crc32(b"whole")
    monkeypatch.setattr(sums, "_started", lambda: "another start")
    assert read(1) == read(0) == zlib.crc32(b"whole")
    kept = tmp_path / ".image.read"
    kept.write_bytes(kept.read_bytes().replace(b"image", b"imago")[:-3])
    assert read(1) == read(0) == zlib.crc32(b"whole")


def test_a_digest_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a checksum of the same file; and again when it is another, or was changed just now."""
    path, kept = tmp_path / "object.o", tmp_path / ".object.o.digest"
    path.write_bytes(b"one")
    assert sums.digest_once(path) == hashlib.sha256(b"one").hexdigest() and not kept.exists()
    monkeypatch.setattr(sums, "SETTLED", 0)
    assert sums.digest_once(path) == hashlib.sha256(b"one").hexdigest() and kept.exists()
    assert sums.checksum_once(path) == zlib.crc32(b"one")
    *seen, _ = sums.read_json(kept)
    sums.write_json(kept, [*seen, "found"])
    assert sums.digest_once(path) == "found"
    state = path.stat()
    time.sleep(0.05)  # for a file system may give times by the tick
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert sums.digest_once(path) == hashlib.sha256(b"two").hexdigest()
    monkeypatch.setattr(sums, "_started", lambda: "another start")
    sums.write_json(kept, [*seen, "found"])
    assert sums.digest_once(path) == hashlib.sha256(b"two").hexdigest()


def test_bytes_are_kept_with_their_checksum(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "folder/part"
    assert sums.read_bytes(path) is None and caplog.text == ""
    sums.keep_bytes(path, b"\0part")
    assert sums.read_bytes(path) == b"\0part" and caplog.text == ""
    for damaged in (b"", b"\0\0", path.read_bytes()[:-1], path.read_bytes().replace(b"p", b"q")):
        path.write_bytes(damaged)
        caplog.clear()
        found = sums.read_bytes(path)
        assert found is None and "damaged" in caplog.text, damaged
    path.unlink()
    path.mkdir()
    sums.keep_bytes(path, b"part")  # a cache that cannot be written is no failure
    assert sums.read_bytes(path) is None


CONTROL = "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: nobody <a@b.c>\nDescription: thing\n"


def test_an_unpacked_package_is_unpacked_again(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one of its files is damaged that is used; what is asked for elsewhere is none of the cache's."""
    need("dpkg-deb")
    content = tmp_path / "content"
    for name, text in (("boot/image", "whole"), ("DEBIAN/control", CONTROL)):
        (content / name).parent.mkdir(parents=True)
        (content / name).write_text(text)
    place = cache / "packages/thing_1_all.deb"
    place.parent.mkdir(parents=True)
    run(["dpkg-deb", "--root-owner-group", "-b", content, place])
    deb = Package("thing", "1", "all", sha256_of(place), place.stat().st_size, "")
    monkeypatch.setattr(apt, "lookup", lambda name, version, groups: {("thing", "1"): deb}[name, version])
    image = apt.unpacked(deb) / "boot/image"
    assert apt.mended(image) == image
    image.write_text("whale")
    assert apt.mended(image).read_text() == "whole"
    image.unlink()
    assert apt.mended(image).read_text() == "whole"
    assert apt.mended(Path("/boot/image")) == Path("/boot/image")


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

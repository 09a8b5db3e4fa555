"""What is written appears whole or not at all, and takes no place that is no file's."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.acquire.whole import check_place, whole_file, write_whole
from builder.errors import UsageError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device nodes and give files away")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def node(kind: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        try:
            os.mknod(path, kind | 0o600, os.makedev(1, 3) if kind == stat.S_IFCHR else os.makedev(7, 250))
        except PermissionError:
            pytest.skip("this container may not make device nodes")

    return make


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a directory"),
        (fifo, "a FIFO"),
        (bound, "a socket"),
        pytest.param(node(stat.S_IFCHR), "a character device", marks=AS_ROOT),
        pytest.param(node(stat.S_IFBLK), "a block device", marks=AS_ROOT),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_only_a_file_is_replaced(tmp_path: Path, make: Callable[[Path], None], kind: str, linked: bool) -> None:
    path = tmp_path / "place"
    make(path)
    before = path.stat()
    given = path
    if linked:
        given = tmp_path / "link"
        given.symlink_to(path)
    names = sorted(tmp_path.iterdir())
    says = f"{given.name}: is {kind}: only a regular file"
    with pytest.raises(UsageError, match=says):
        check_place(given)
    with pytest.raises(UsageError, match=says):
        write_whole(given, "new")
    after = path.stat()
    assert (after.st_ino, after.st_mode, after.st_rdev) == (before.st_ino, before.st_mode, before.st_rdev)
    assert sorted(tmp_path.iterdir()) == names


def test_the_target_of_a_link_is_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target, before in (("there/old", "old"), ("there/new", None)):
        place = tmp_path / target
        if before is not None:
            place.write_text(before)
        link = tmp_path / f"to-{place.name}"
        link.symlink_to(target)
        write_whole(link, "written")
        assert os.readlink(link) == target and not place.is_symlink()
        assert place.read_text() == "written"
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["new", "old"]
    circle = tmp_path / "circle"
    circle.symlink_to("circle")
    with pytest.raises(UsageError, match="circle: cannot be written: Too many levels of symbolic links"):
        write_whole(circle, "x")


def test_a_replaced_file_keeps_its_mode_and_a_new_one_can_be_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o2640)
    mode = stat.S_IMODE(path.stat().st_mode)
    write_whole(path, b"replaced")
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b"replaced"


@AS_ROOT
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    path.chmod(0o4750)
    with whole_file(path, sync=True) as temporary:
        assert temporary.parent == tmp_path and path.read_text() == "old"
        temporary.write_text("new")
    state = path.stat()
    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (1234, 4321, 0o4750)
    assert path.read_text() == "new"


@AS_ROOT
def test_a_file_of_somebody_else_that_could_not_stay_theirs_is_not_replaced() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own can be entered by its owner only
        folder = Path(name)
        folder.chmod(0o777)
        path = folder / "file"
        path.write_text("old")
        os.seteuid(1234)
        try:
            with pytest.raises(UsageError, match="file: belongs to somebody else"):
                write_whole(path, "new")
        finally:
            os.seteuid(0)
        assert path.read_text() == "old" and list(folder.iterdir()) == [path]


def test_nothing_is_left_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    write_whole(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["file"]

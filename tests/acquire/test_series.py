"""Which patches a directory or a series file stands for, and what their modules are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.acquire.series import expand, module_names, stacks
from builder.errors import InputError, UsageError


def files(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("x\n")
    return folder


def test_a_directory_is_its_patches_by_name(tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "b.patch", "a.diff", "README", ".c.patch")
    assert [path.name for path in expand([folder])] == ["a.diff", "b.patch"]


def test_a_series_gives_the_order(tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "a.patch", "b.patch", "c.patch")
    (folder / "series").write_text("# why\n\nc.patch -p1\na.patch   # the fix\n")
    for given in (folder, folder / "series"):
        assert [path.name for path in expand([given])] == ["c.patch", "a.patch"]
    assert [path.name for path in expand([folder, folder / "b.patch"])] == ["c.patch", "a.patch", "b.patch"]
    runs = stacks([folder, folder / "b.patch", files(tmp_path / "e", "x.patch", "y.patch")])
    assert [[path.name[0] for path in run] for run in runs] == [["c", "a"], ["b"], ["x"], ["y"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.patch\nno.patch\n", "line 2: there is no file .*no.patch"),
        ("a.patch -R\n", "line 1: -R is not known"),
    ],
)
def test_a_series_with_a_fault_names_its_line(tmp_path: Path, text: str, says: str) -> None:
    folder = files(tmp_path / "d", "a.patch")
    (folder / "series").write_text(text)
    with pytest.raises(InputError, match=says):
        expand([folder])


def test_a_series_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "series").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text"):
        expand([tmp_path / "series"])


def test_no_patches_are_an_error(tmp_path: Path) -> None:
    folder = files(tmp_path / "d", "README")
    with pytest.raises(UsageError, match="there are no patches in"):
        expand([folder])
    (folder / "series").write_text("# nothing\n")
    with pytest.raises(UsageError, match="there are no patches in"):
        expand([folder / "series"])
    with pytest.raises(UsageError, match="there is no file"):
        expand([tmp_path / "absent.patch"])


def test_names_of_modules_are_valid_and_differ() -> None:
    paths = [Path(name) for name in ("a/0001-net-fix.patch", "b/0001-net-fix.patch", "x.y.diff", f"{'n' * 80}.patch")]
    names = module_names(paths)
    assert [names[k] for k in range(3)] == ["0001_net_fix", "0001_net_fix_2", "x_y"]
    assert len(names[3]) <= 55

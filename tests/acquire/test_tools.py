"""Programs are run in one way, and each way in which they fail is an error of its own kind."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from builder.acquire.apt import offered
from builder.acquire.cache import locked
from builder.acquire.compile import not_compiled
from builder.acquire.kbuild import record
from builder.acquire.tools import aside, ended, need, run, run_grep, started
from builder.errors import InputError, MissingFileError, MissingToolError, SpaceError, ToolError


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_what_a_program_leaves(tmp_path: Path) -> None:
    left = ended(python("import os, sys; print(os.environ['X']); sys.stderr.write('no'); sys.exit(3)"), env={"X": "y"})
    assert (left.status, left.out, left.err) == (3, b"y\n", b"no")
    log = tmp_path / "log"
    assert run(python("import os; os.write(1, b'\\xff'); os.write(2, b'said')"), log=log) == "\ufffd"
    assert log.read_text().endswith("\ufffdsaid")


def test_a_missing_program_is_told_from_one_that_fails(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="no-such-program is not installed: apt-get install no-such-program"):
        run(["no-such-program"])
    with pytest.raises(MissingToolError, match="testing needs: apt-get install binutils no-such-program"):
        need(["no-such-program", "sh", "no-such-place/ld"], purpose="testing")
    with pytest.raises(MissingToolError, match="no-such-make is not installed"):
        record(tmp_path, ["no-such-make"], tmp_path / "objects.db")
    with pytest.raises(ToolError, match=r"exit status 3.*is not installed") as failed:
        run(python("print('x is not installed'); exit(3)"))
    assert not isinstance(failed.value, MissingToolError)
    with pytest.raises(ToolError, match="no such directory") as lacking:
        run(["true"], cwd=tmp_path / "absent")
    assert not isinstance(lacking.value, MissingToolError)


def test_apt_that_is_missing_is_no_unknown_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingToolError, match="apt-cache is not installed: apt-get install apt"):
        offered("linux-image-amd64")


def test_a_full_disk_is_an_error_of_its_own() -> None:
    with pytest.raises(SpaceError, match=r"failed \(exit status 1\): No space left on device"):
        run(python("import sys; sys.exit('cannot write: No space left on device\\nand so on')"))


def test_what_a_compiler_lacks_is_told_from_what_it_does_not_take() -> None:
    lacks = not_compiled("x.c:1:10: fatal error: generated/x.h: No such file or directory", where="x.c")
    wrong = not_compiled("x.c:1:1: error: unknown type name 'x'", where="x.c")
    assert isinstance(lacks, MissingFileError) and type(wrong) is InputError
    assert str(lacks) == "x.c: x.c:1:10: fatal error: generated/x.h: No such file or directory"


def test_a_program_that_is_left_ends_with_all_that_it_started() -> None:
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with started(python(child)) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
    assert process.returncode == -signal.SIGTERM
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("what the program had started goes on")


def test_a_program_that_takes_too_long() -> None:
    with pytest.raises(ToolError, match="sleep did not end within 0 s"):
        run(["sleep", "60"], timeout=0.1)


def test_words_are_found_in_source(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs/a.c").write_bytes(b"int one;\nint \xff;\nint two_more, one;\n")
    assert list(run_grep(tmp_path, ["one", "two"], whole_words=True)) == [("fs/a.c", 1, "one"), ("fs/a.c", 3, "one")]
    assert list(run_grep(tmp_path, ["none"], whole_words=True)) == []


def test_a_list_that_ended_early_is_no_list(tmp_path: Path) -> None:
    """It names objects, but none that is linked into anything: nothing would be found in it."""
    line = "gcc -Wp,-MMD,x.d -DKBUILD_BASENAME='\"x\"' -c -o fs/x.o fs/x.c"
    with pytest.raises(ToolError, match="none of them part of the kernel"):
        record(tmp_path, ["sh", "-c", f"echo '; {line.replace(chr(39), '')}'"], tmp_path / "objects.db")
    assert not (tmp_path / "objects.db").exists()


def test_programs_end_with_the_process() -> None:
    """Which is one of its own: afterwards nothing is started any more."""
    text = """
import threading, time
from builder.acquire.tools import _all, end_programs, ended
told = []
def wait():
    told.append(ended(["sh", "-c", "trap '' TERM; sleep 4321 & wait; sleep 4321"]).status)
    try:
        ended(["true"])
    except Exception as error:
        told.append(str(error))
thread = threading.Thread(target=wait)
thread.start()
while not _all.running:
    time.sleep(0.01)
time.sleep(0.2)
end_programs()
thread.join(10)
print(told)
"""
    left = ended(python(text), timeout=60)
    assert left.out == b"[-9, 'true is not run: this process is ending']\n", left.err


def test_what_is_done_aside_is_waited_for(tmp_path: Path) -> None:
    """Its failure is nobody's but that of who needs what it makes."""

    def work() -> None:
        time.sleep(0.2)
        run(["touch", tmp_path / "made"])
        run(["false"])

    with aside(work):
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("left_by", [KeyboardInterrupt, SystemExit, ToolError("failed")])
def test_what_is_done_aside_ends_with_what_fails(left_by: type[BaseException] | ToolError, tmp_path: Path) -> None:
    """Its program is ended and it runs no other; what it cleans up is done; what runs beside it goes on."""
    told: list[str] = []

    def work() -> None:
        try:
            for seconds in ("4321", "4322"):
                try:
                    ended(["sh", "-c", f"touch {tmp_path / 'begun'}; sleep {seconds}"])
                except ToolError as error:
                    told.append(error.message)
        finally:
            told.append("cleaned up")

    def interrupted() -> None:
        with aside(work):
            while not (tmp_path / "begun").exists():
                time.sleep(0.01)
            raise left_by

    begin = time.monotonic()
    with pytest.raises(BaseException) as caught:
        interrupted()
    assert caught.type in (left_by, type(left_by))
    assert told == ["sh is not run: this process is ending", "cleaned up"]
    assert time.monotonic() - begin < 4000
    assert ended(["true"]).status == 0


def test_a_lock_is_inherited_by_the_programs_of_its_thread_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of another thread would hold it as long as it runs itself."""
    monkeypatch.setenv("BESPOKE_CACHE", str(tmp_path))
    taken, looked = threading.Event(), threading.Event()
    found: list[bool] = []

    def holds_lock() -> bool:
        with started(["sh", "-c", "echo; sleep 4321; echo"]) as process:
            assert process.stdout is not None and process.stdout.readline()  # it has opened what it needs itself
            open_files = Path(f"/proc/{process.pid}/fd").iterdir()
            return str(tmp_path / "locks/tree.lock") in [os.readlink(path) for path in open_files]

    def work() -> None:
        assert taken.wait(60)
        found.append(holds_lock())
        looked.set()

    with aside(work), locked("tree", inherited=True):
        taken.set()
        assert looked.wait(60)
        found.append(holds_lock())
    assert found == [False, True]


@pytest.mark.parametrize("folders", [("arch", "drivers", "net"), ("drivers", "net"), ("arch", "net"), ("drivers",)])
def test_what_is_searched_at_once_comes_in_the_order_of_the_folders(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.c").write_text("int other;\nint wanted;\n")
    found = list(run_grep(tmp_path, ["wanted"], whole_words=True))
    assert found == [(f"{folder}/file.c", 2, "wanted") for folder in folders]

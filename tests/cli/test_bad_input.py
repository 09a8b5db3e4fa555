"""Whatever `bespoke build` is given: one clear line, the status of the contract, and no file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.acquire.packages import fetch_kernel
from builder.binary import elf, read_object
from tests.cli.conftest import Bespoke
from tests.conftest import needed

pytestmark = [pytest.mark.data, pytest.mark.kernel]

SOURCE = """
int visits;
int helper(int x) { return x * VALUE + visits; }
int entry(int x) { visits++; return helper(x) + 1; }
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the module would be written."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "fix.ko"


def nothing_in(out: Path) -> None:
    assert list(out.parent.iterdir()) == [], "files were left beside the output"


def compiled(gcc: str, folder: Path, *flags: str) -> tuple[Path, Path]:
    """Old and new object of SOURCE."""
    made = []
    for name, value in (("old", 3), ("new", 4)):
        place = folder / name
        place.mkdir(parents=True)
        (place / "unit.c").write_text(SOURCE)
        run = [gcc, "-c", "-O1", "-fno-pic", "-fno-asynchronous-unwind-tables", f"-DVALUE={value}", *flags]
        subprocess.run([*run, "unit.c", "-o", "unit.o"], cwd=place, check=True)
        made.append(place / "unit.o")
    return made[0], made[1]


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("which", ["orig.o", "patched.o"])
def test_a_truncated_object(
    bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path, share: float, which: str
) -> None:
    whole = (pair / which).read_bytes()
    cut = tmp_path / "cut.o"
    cut.write_bytes(whole[: int(len(whole) * share)])
    objects = [cut if name == which else pair / name for name in ("orig.o", "patched.o")]
    said = bespoke("build", *objects, "--kernel", image, "-o", out).problem()
    assert str(cut) in said and ("truncated" in said or "is empty" in said)
    nothing_in(out)


def test_a_text_file(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path) -> None:
    text = tmp_path / "notes.o"
    text.write_text("int main(void) { return 0; }\n")
    said = bespoke("build", pair / "orig.o", text, "--kernel", image, "-o", out).problem()
    assert said == f"bespoke: {text}: is not an ELF file"
    nothing_in(out)


@pytest.mark.parametrize("both", [False, True])
def test_an_aarch64_object(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path, both: bool) -> None:
    paths = []
    for name in ("orig.o", "patched.o"):
        data = bytearray((pair / name).read_bytes())
        if both or name == "patched.o":
            data[18:20] = elf.EM_AARCH64.to_bytes(2, "little")
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    said = bespoke("build", *paths, "--kernel", image, "-o", out).problem()
    assert "AArch64" in said and str(tmp_path) in said
    nothing_in(out)


def test_an_object_without_function_sections(
    bespoke: Bespoke, gcc: str, image: Path, tmp_path: Path, out: Path
) -> None:
    old, new = compiled(gcc, tmp_path)
    said = bespoke("build", old, new, "--kernel", image, "-o", out).problem()
    assert str(old) in said and "-ffunction-sections" in said
    nothing_in(out)


@pytest.mark.parametrize("more", [(), ("-g",)])
def test_an_object_that_a_linker_would_compile(
    bespoke: Bespoke, gcc: str, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Compared as it is, it would have changed nothing."""
    slim = ("-ffunction-sections", "-fdata-sections", "-flto", "-fno-fat-lto-objects", *more)
    old, new = compiled(gcc, tmp_path, *slim)
    said = bespoke("diff", old, new).problem()
    assert said == f"bespoke: {old}: holds no code: compile without -flto or with -ffat-lto-objects"
    fat = (*slim[:3], "-ffat-lto-objects", *more)
    assert bespoke("diff", *compiled(gcc, tmp_path / "fat", *fat)).status in (0, 1)  # compared, and judged


@pytest.mark.parametrize("start", [b"BC\xc0\xde", b"\xde\xc0\x17\x0b"])
def test_bitcode_is_no_object(bespoke: Bespoke, tmp_path: Path, start: bytes) -> None:
    place = tmp_path / "unit.o"
    place.write_bytes(start + bytes(64))
    assert bespoke("diff", place, place).problem() == (
        f"bespoke: {place}: holds no code: compile without -flto or with -ffat-lto-objects"
    )


def test_a_program_is_no_object(bespoke: Bespoke, pair: Path, image: Path, out: Path) -> None:
    said = bespoke("build", pair / "orig.o", "/bin/true", "--kernel", image, "-o", out).problem()
    assert "/bin/true" in said and "not a relocatable object" in said
    nothing_in(out)


@pytest.mark.parametrize("series", ["6.1", "6.12"])
def test_a_kernel_of_another_version(
    bespoke: Bespoke, pair: Path, image: Path, out: Path, series: str, request: pytest.FixtureRequest
) -> None:
    """Found because the old functions are not the bytes that run, and refused by name."""
    release = request.getfixturevalue(f"release_{series.replace('.', '')}")
    with needed():
        other = fetch_kernel(release).image
    folder = pair.parent / "io_uring__rsrc" if series == "6.1" else pair
    ran = bespoke("build", folder / "orig.o", folder / "patched.o", "--kernel", other, "-o", out)
    if other == image or (series == "6.1" and ran.status == 0):
        pytest.skip(f"{release} has the same code of {folder.name}")
    assert ran.status == 1 and ran.out == ""
    refused = [line for line in ran.err.splitlines() if line.startswith("bespoke: refused: ")]
    assert len(refused) == 1
    assert "run-pre-mismatch" in refused[0] and release in refused[0]
    nothing_in(out)


def test_code_that_no_kernel_has(bespoke: Bespoke, gcc: str, image: Path, tmp_path: Path, out: Path) -> None:
    old, new = compiled(gcc, tmp_path, "-ffunction-sections", "-fdata-sections", "-pg", "-mfentry")
    ran = bespoke("build", old, new, "--kernel", image, "-o", out)
    assert ran.status == 1 and ran.err.startswith("bespoke: refused: owner-ambiguous: ")
    nothing_in(out)


def test_without_an_assembler(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "bin").mkdir()
    words = ("build", pair / "orig.o", pair / "patched.o", "--kernel", image, "-o", out)
    said = bespoke(*words, env={"PATH": str(tmp_path / "bin")}).problem()
    assert "binutils" in said
    nothing_in(out)


def test_an_assembler_that_fails(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path) -> None:
    tool = tmp_path / "bin/as"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho no space >&2\nexit 1\n")
    tool.chmod(0o755)
    words = ("build", pair / "orig.o", pair / "patched.o", "--kernel", image, "-o", out)
    assert bespoke(*words, env={"PATH": str(tool.parent)}).problem().endswith("as failed: no space")
    nothing_in(out)


@pytest.mark.parametrize("command", ["diff", "build"])
def test_a_missing_file(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path, command: str) -> None:
    rest = ("--kernel", image, "-o", out) if command == "build" else ()
    absent = tmp_path / "absent.o"
    said = bespoke(command, pair / "orig.o", absent, *rest).problem()
    assert said == f"bespoke: {absent}: cannot be read: No such file or directory"
    nothing_in(out)


@pytest.mark.parametrize("command", ["diff", "build"])
def test_a_directory_and_a_file(bespoke: Bespoke, pair: Path, image: Path, out: Path, command: str) -> None:
    rest = ("--kernel", image, "-o", out) if command == "build" else ()
    for objects in ((pair, pair / "patched.o"), (pair / "orig.o", pair)):
        assert "both be" in bespoke(command, *objects, *rest).problem()
    nothing_in(out)


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        ("{tmp}/absent", "no such file"),
        ("{tmp}", "a directory, no kernel image"),
        ("{tmp}/text", "{tmp}/text: "),
        ("9.9.9-none", "9.9.9-none"),
        ("{pair}/orig.o", "orig.o: "),
    ],
)
def test_what_is_no_kernel(bespoke: Bespoke, pair: Path, tmp_path: Path, out: Path, kernel: str, says: str) -> None:
    (tmp_path / "text").write_text("not a kernel\n" * 1000)
    given = kernel.format(tmp=tmp_path, pair=pair)
    said = bespoke("build", pair / "orig.o", pair / "patched.o", "--kernel", given, "-o", out).problem()
    assert says.format(tmp=tmp_path) in said
    nothing_in(out)


@pytest.mark.parametrize("count", ["0", "-1", "some"])
def test_a_number_of_modules_that_is_none(bespoke: Bespoke, image: Path, count: str) -> None:
    assert "--modules takes a number" in bespoke("fidelity", "--kernel", image, f"--modules={count}").problem()


def test_a_cut_kernel_image(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path) -> None:
    cut = tmp_path / "vmlinuz"
    cut.write_bytes(image.read_bytes()[:3_000_000])
    said = bespoke("build", pair / "orig.o", pair / "patched.o", "--kernel", cut, "-o", out).problem()
    assert str(cut) in said
    nothing_in(out)


def test_the_output_cannot_be_written(bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path) -> None:
    objects = ("build", pair / "orig.o", pair / "patched.o", "--kernel", image, "-o")
    absent = tmp_path / "no/such/place"
    assert str(absent) in bespoke(*objects, absent / "fix.ko").problem()
    folder = tmp_path / "fix.ko"
    folder.mkdir()
    assert str(folder) in bespoke(*objects, folder).problem()
    assert list(folder.iterdir()) == []
    assert "/dev/full" in bespoke(*objects, "/dev/full/fix.ko").problem()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["TMPDIR", "fix.ko"]
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(0o500)
        assert "Permission denied" in bespoke(*objects, closed / "fix.ko").problem()


@pytest.mark.parametrize("command", ["diff", "build", "patch"])
def test_an_output_that_is_no_file_is_refused_before_any_work(bespoke: Bespoke, tmp_path: Path, command: str) -> None:
    """Nothing of what else is given is there: the output is looked at first, and stays what it is."""
    pipe, link, patch = tmp_path / "pipe", tmp_path / "link", tmp_path / "x.patch"
    os.mkfifo(pipe)
    link.symlink_to("pipe")
    patch.write_text("no patch")
    inputs = [patch] if command == "patch" else [tmp_path / "absent.o", tmp_path / "absent.o"]
    module = tmp_path / "fix.ko"
    for place in (pipe, link):
        for option in ["--html"] if command == "diff" else ["--html", "-o"]:
            rest = [] if command == "diff" else ["--kernel", "no-such", "-o", module, "--name", "fix"]
            said = bespoke(command, *inputs, *rest, option, place).problem()
            assert f"{place}: is a FIFO: only a regular file can be replaced" in said
    each = tmp_path / "each"
    if command == "patch":
        each.mkdir()
        os.mkfifo(each / "x.ko")
        said = bespoke(command, patch, "--each", "--kernel", "no-such", "-o", each).problem()
        assert f"{each / 'x.ko'}: is a FIFO" in said
    assert pipe.is_fifo() and link.is_symlink() and not module.exists()


def test_a_full_disk(pair: Path, image: Path, tmp_path: Path, bespoke: Bespoke) -> None:
    """A disk with room for a part of the module; mounted in a name space of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mount name space of its own is allowed here")
    disk = tmp_path / "disk"
    disk.mkdir()
    words = [sys.executable, "-m", "builder", "build", pair / "orig.o", pair / "patched.o", "--kernel", image, "-o"]
    mount = 'disk=$1; shift; mount -t tmpfs -o size=4k none "$disk" || exit 77'
    script = mount + '; "$@" "$disk/fix.ko"; status=$?; ls -A "$disk"; exit $status'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", disk, *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 77:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr}")
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr == f"bespoke: {disk}/fix.ko: cannot be written: No space left on device\n"


def test_an_existing_module_stays_when_the_next_build_fails(
    bespoke: Bespoke, pair: Path, image: Path, tmp_path: Path, out: Path
) -> None:
    out.write_bytes(b"earlier")
    (tmp_path / "bin").mkdir()
    words = ("build", pair / "orig.o", pair / "patched.o", "--kernel", image, "-o", out)
    assert bespoke(*words, env={"PATH": str(tmp_path / "bin")}).status == 2
    assert out.read_bytes() == b"earlier" and list(out.parent.iterdir()) == [out]
    assert bespoke(*words, "-q").status == 0
    assert read_object(out).by_name[".modinfo"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--name", "a b"), "cannot be a module's name"),
        (("--name", "x" * 56), "cannot be a module's name"),
        (("--name", ""), "cannot be a module's name"),
        (("--name", "module"), "'module' is taken in"),
        (("--name", "kernel"), "'kernel' is taken in"),
        (("--name", "nf-conntrack"), "one of its own modules is called so"),
        (("--allow", "nonsense"), "--allow takes CODE:SYMBOL"),
        (("--object", "nonsense"), "--object takes NAME=PATH"),
        (("--object", "a=/no/such"), "there is no file"),
        (("--in", "no_such_module"), "no_such_module"),
    ],
)
def test_arguments_that_do_not_fit(
    bespoke: Bespoke, pair: Path, image: Path, out: Path, words: tuple[str, ...], says: str
) -> None:
    run = bespoke("build", pair / "orig.o", pair / "patched.o", "--kernel", image, "-o", out, *words)
    assert says in run.problem()
    nothing_in(out)


@pytest.mark.parametrize("name", ["", "x" * 56, "printk"])
def test_a_name_that_cannot_be_is_refused_before_the_work(
    bespoke: Bespoke, image: Path, tmp_path: Path, name: str
) -> None:
    """Nothing has looked at the objects, or the patch, yet."""
    junk = tmp_path / "junk.patch"
    junk.write_text("no patch")
    for words in (("build", junk, junk), ("patch", junk)):
        run = bespoke(*words, "--kernel", image, "-o", tmp_path / "fix.ko", "--name", name)
        assert f"'{name}'" in run.problem()
    named = tmp_path / f"{name}.ko"
    assert f"'{name}'" in bespoke("build", junk, junk, "--kernel", image, "-o", named).problem()


@pytest.mark.parametrize("words", [(), ("build",), ("nonsense",), ("diff", "a"), ("diff", "a", "b", "--nonsense")])
def test_bad_usage(bespoke: Bespoke, words: tuple[str, ...]) -> None:
    run = bespoke(*words)
    assert run.status == 2 and run.out == "" and "usage: bespoke" in run.err


def test_an_interrupt_leaves_nothing(pair: Path, image: Path, tmp_path: Path, out: Path) -> None:
    """Interrupted while `as` is at work."""
    tool = tmp_path / "bin/as"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n: > {tmp_path}/began\nexec sleep 30\n")
    tool.chmod(0o755)
    temporary = tmp_path / "TMPDIR"
    temporary.mkdir()
    objects = (pair / "orig.o", pair / "patched.o")
    words = [sys.executable, "-m", "builder", "build", *objects, "--kernel", image, "-o", out]
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(root),
    }
    process = subprocess.Popen(
        list(map(str, words)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "began").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        said, complaint = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and said == "" and complaint == "bespoke: interrupted\n"
    nothing_in(out)
    assert list(temporary.iterdir()) == []

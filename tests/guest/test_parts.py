"""The parts of the guest that need no guest: archive, log, dependencies."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.binary.manifest import SECTION, Manifest, TargetKernel
from builder.binary.module import ModuleFile
from builder.errors import InputError, ToolError, UsageError
from builder.image.guest import KernelLog, initramfs, taints
from builder.image.guest.log import TAINTS, ModuleTraffic, taint_meaning
from builder.image.guest.modules import ModuleTree


def unpacked(archive: bytes, place: Path) -> dict[str, bytes]:
    """What busybox's own cpio makes of an archive."""
    place.mkdir()
    command = [str(initramfs.busybox()), "cpio", "-i", "-d", "--quiet"]
    subprocess.run(command, input=archive, cwd=place, check=True, capture_output=True)
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@pytest.mark.guest
def test_the_archive_is_what_another_program_reads(tmp_path: Path) -> None:
    files = {"a": b"", "b/c/d": b"1", "b/c/e": b"12", "b/f": b"123", "/g/with space": b"x" * 5000}
    archive = initramfs.archive(initramfs.user_nodes(files))
    assert unpacked(archive, tmp_path / "x") == {name.lstrip("/"): data for name, data in files.items()}


@pytest.mark.guest
def test_the_base_has_init_and_busybox(tmp_path: Path) -> None:
    nodes = [node for node in initramfs.base_nodes("#!/bin/busybox sh\n") if node.path != "dev/console"]
    found = unpacked(initramfs.archive(nodes), tmp_path / "x")
    assert found["init"] == b"#!/bin/busybox sh\n"
    assert (tmp_path / "x" / "init").stat().st_mode & 0o777 == 0o755
    assert found["bin/busybox"] == initramfs.busybox().read_bytes()
    assert (tmp_path / "x" / "proc").is_dir()


PATHS = st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9}){0,2}", fullmatch=True)


@given(st.dictionaries(PATHS, st.binary(max_size=70)))
def test_every_header_and_body_is_aligned(files: dict[str, bytes]) -> None:
    archive = initramfs.archive(initramfs.user_nodes(files))
    at, names = 0, []
    while True:
        assert archive[at : at + 6] == b"070701" and at % 4 == 0
        size, name_size = (int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in (6, 11))
        name = archive[at + 110 : at + 109 + name_size].decode()
        body = at + (110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            break
        if archive[at + 14 : at + 22] == b"000081ED":
            assert archive[body : body + size] == files[name]
            names.append(name)
        at = body + (size + 3) // 4 * 4
    assert names == list(files)
    assert body == len(archive)


@pytest.mark.parametrize("path", ["", "/", "../etc/passwd", "a/../b"])
def test_paths_stay_inside(path: str) -> None:
    with pytest.raises(UsageError):
        initramfs.archive([initramfs.program(path, b"")])


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        initramfs.user_nodes({"a": tmp_path / "absent"})


def test_busybox_must_be_static(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not initramfs.is_static(Path("/bin/sh").resolve())
    assert not initramfs.is_static(Path(__file__))
    monkeypatch.setattr(initramfs, "BUSYBOX_PLACES", (sys.executable,))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="busybox-static"):
        initramfs.busybox()


LOG = """\
SeaBIOS (version 1.16)
[    0.000000] Linux version 6.1.0
[    1.000000] bespoke: loading out-of-tree module taints kernel.
[    1.100000] bespoke: module verification failed: signature and/or required key missing - tainting kernel
[    1.200000] bespoke: tainting kernel with TAINT_LIVEPATCH
[    1.300000] livepatch: enabling patch 'bespoke'
"""
WARNED = """\
[    2.000000] ------------[ cut here ]------------
[    2.000001] WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2
[    2.000002] Call Trace:
[    2.000003] ---[ end trace 0000000000000000 ]---
[    3.000000] Call Trace:
"""


def test_the_taints_of_any_livepatch_are_no_warning() -> None:
    log = KernelLog.parse(LOG)
    assert len(log.records) == 5 and log.warnings() == () and log.first_failure() is None
    assert str(log) == "\n".join(LOG.splitlines()[1:])


def test_warnings_are_counted_once_and_from_a_mark_on() -> None:
    log = KernelLog.parse(LOG + WARNED)
    assert log.warnings() == ("WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2", "Call Trace:")
    assert log.since(KernelLog.parse(LOG).end).warnings() == log.warnings()
    assert log.since(2.5).warnings() == ("Call Trace:",)
    assert log.since(log.end).records == ()
    assert KernelLog.parse("").end == 0.0


@pytest.mark.parametrize(
    ("level", "text", "in_traffic", "again", "due"),
    [
        (3, "x: gone at 7", False, False, False),
        (3, "x: gone at 9 now", False, False, True),
        (3, "x: new", True, False, False),
        (3, "x: new", True, True, True),
        (3, "x: gone at 7", True, True, False),
        (4, "WARNING: CPU: 1 PID: 7 at x.c:1 f+0x1/0x2", False, False, True),
        (4, "WARNING: CPU: 1 PID: 7 at x.c:1 f+0x1/0x2", True, False, False),
        (4, "WARNING: CPU: 1 PID: 7 at y.c:1 f+0x1/0x2", True, False, True),
    ],
)
def test_what_a_livepatch_is_blamed_for(level: int, text: str, in_traffic: bool, again: bool, due: bool) -> None:
    """Not for what was said before it came, numbers apart, nor for what modules say of themselves."""
    before = "<3>[    1.000000] x: gone at 3\n<4>[    1.000000] WARNING: CPU: 0 PID: 3 at x.c:1 f+0x1/0x2"
    span = (2.5, math.inf) if in_traffic else (1.5, 2.5)
    log = KernelLog.parse(f"{before}\n<{level}>[    3.000000] {text}").caused(2.0, [ModuleTraffic(*span, again)])
    assert log.warnings() == ((text,) if due else ())


@pytest.mark.parametrize(("level", "is_warning"), [(3, True), (4, False), (27, True), (30, False)])
def test_errors_are_told_by_their_level(level: int, is_warning: bool) -> None:
    """The number holds the facility too; the level is its last three bits."""
    log = KernelLog.parse(f"<{level}>[    2.500000] x: symbol not found")
    assert bool(log.warnings()) is is_warning


@pytest.mark.parametrize(
    "text",
    [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: 0000 [#1] PREEMPT SMP NOPTI",
        "kernel BUG at mm/slab.c:1!",
        "Kernel panic - not syncing: Attempted to kill init!",
        "Unpatched return thunk in use. This should not happen!",
        "x86/modules: Skipping invalid relocation target, existing value is nonzero for type 1",
        "INFO: task sh:12 blocked for more than 120 seconds.",
    ],
)
def test_what_is_severe_needs_no_level(text: str) -> None:
    assert KernelLog.parse(f"[    2.500000] {text}").first_failure() == text


@given(st.sets(st.integers(0, 18)))
def test_taints_are_decoded(bits: set[int]) -> None:
    letters = taints(sum(1 << bit for bit in bits))
    assert letters == tuple(TAINTS[bit][0] for bit in sorted(bits))
    assert "unknown" not in map(taint_meaning, letters)


def test_a_taint_of_a_kernel_to_come() -> None:
    assert taints(1 << 40) == ("40",) and taint_meaning("40") == "unknown"


class Tree:
    """A module tree of ELF files with nothing but a .modinfo."""

    path = vmlinux = Path("none")
    release = "1.0"

    def __init__(self, root: Path, modules: dict[str, str]) -> None:
        self.modules_root: Path | None = root
        folder = root / "kernel" / "crypto"
        folder.mkdir(parents=True)
        for name, info in modules.items():
            (folder / f"{name}.ko").write_bytes(minimal(f"name={name}", *info.split(";")))
        (root / "modules.builtin").write_text("kernel/fs/inside-out.ko\n")

    def find_module(self, name: str) -> Path | None:
        assert self.modules_root is not None
        path = self.modules_root / "kernel" / "crypto" / f"{name}.ko"
        return path if path.is_file() else None


def minimal(*info: str, section: str = ".modinfo") -> bytes:
    """An ELF-64 file with one section and its string table."""
    content, names = "\0".join(info).encode() + b"\0", f"\0{section}\0.shstrtab\0".encode()
    rows = [(0, 0, 0, 0), (1, 1, 64, len(content)), (len(section) + 2, 3, 64 + len(content), len(names))]
    start = 64 + len(content) + len(names)

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little")

    head = b"\x7fELF\2\1\1" + bytes(9) + number(1, 2) + number(62, 2) + number(1, 4) + bytes(16)
    head += number(start, 8) + bytes(4) + number(64, 2) + bytes(4)
    head += number(64, 2) + number(3, 2) + number(2, 2)
    table = b"".join(
        number(name, 4) + number(kind, 4) + bytes(16) + number(offset, 8) + number(size, 8) + bytes(24)
        for name, kind, offset, size in rows
    )
    return head + content + names + table


def test_dependencies_come_first_and_once(tmp_path: Path) -> None:
    tree = ModuleTree(
        Tree(
            tmp_path,
            {
                "a": "depends=b,c",
                "b": "depends=d",
                "c": "depends=d,b,inside-out",
                "d": "softdep=pre: crypto-sum e post: f;softdep=pre: absent",
                "h": "softdep=pre: sum",
                "e": "depends=",
                "f": "depends=",
                "sum_fast": "alias=crypto-sum",
                "sum_generic": "alias=sum;alias=crypto-sum",
            },
        )
    )
    assert [module.name for module in tree.closure(["a"])] == ["sum_generic", "e", "d", "b", "c", "a"]
    assert [module.name for module in tree.closure(["h"])] == ["sum_generic", "h"]  # an algorithm, as libcrc32c has it
    loaded = ["b", "sum-generic"]
    assert [module.name for module in tree.closure(["a"], loaded)] == ["e", "d", "c", "a"]
    assert tree.closure(["inside_out"]) == []
    with pytest.raises(InputError, match=r"module g is not in the tree of 1\.0"):
        tree.closure(["g"])


def test_the_callers_own_module_comes_before_the_trees(tmp_path: Path) -> None:
    own = tmp_path / "mine.ko"
    own.write_bytes(minimal("name=a", "depends=x", "livepatch=Y"))
    tree = ModuleTree(Tree(tmp_path / "tree", {"a": "", "x": ""}), {"a": own})
    assert [module.where for module in tree.closure(["a"])][-1] == str(own)
    assert ModuleFile.read(own).is_livepatch


def test_the_manifest_says_what_a_livepatch_is_for() -> None:
    kernel = TargetKernel("6.1.0-1-amd64", "0" * 64, "6.1.0-1-amd64 SMP")
    whole = Manifest("made", kernel, False, (), ("vmlinux", "xfs", "ext4"), (), (), {}, (), ())
    manifest = minimal(whole.to_bytes().decode(), section=SECTION).replace(b"}\0", b"} ")
    assert ModuleFile.read(manifest, "made").patched_objects == ("ext4", "xfs")
    klp = minimal("", section=".klp.rela.btrfs..text.f")
    assert ModuleFile.read(klp, "made").patched_objects == ("btrfs",)
    with pytest.raises(InputError, match="made: its manifest cannot be read"):
        _ = ModuleFile.read(minimal("{}", section=SECTION), "made").patched_objects


def test_a_file_that_holds_another_module_than_its_name_says(tmp_path: Path) -> None:
    own = tmp_path / "mine.ko"
    own.write_bytes(minimal("name=b"))
    with pytest.raises(InputError, match=r"mine\.ko: this is module b, not a"):
        ModuleTree(Tree(tmp_path / "tree", {}), {"a": own}).find("a")


def test_what_is_no_module_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="thing: is not an ELF file"):
        ModuleFile.read(b"text", "thing")
    with pytest.raises(InputError, match=r"\.modinfo names none"):
        ModuleFile.read_named(minimal("license=GPL"))
    with pytest.raises(InputError, match=r"absent\.ko: cannot be read"):
        ModuleFile.read(tmp_path / "absent.ko")

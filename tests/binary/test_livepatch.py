"""What livepatches of others replace is told from their files, in each of the forms that there are."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from builder.binary import ObjectFile, write_object
from builder.binary.inspection import Inspection, compare, inspect
from builder.binary.livepatch import SystemState, written_patch
from builder.errors import InputError
from tests.conftest import need
from tests.support.compiling import Build, builder
from tests.support.foreign import KPATCH, klp_build, vendor


@pytest.fixture(scope="module")
def compiled(gcc: str, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return builder(gcc, tmp_path_factory.mktemp("foreign"))


def functions(found: Inspection) -> list[tuple[str, str, int, str]]:
    return [(f.object, f.name, f.sympos, f.new) for f in found.functions]


def inspected(obj: ObjectFile) -> Inspection:
    return inspect(write_object(obj))


BOTH = [("vmlinux", "cmdline_proc_show", 0, "show"), ("xfs", "get_size", 2, "size")]


def test_of_kpatch(compiled: Build) -> None:
    found = inspected(compiled(KPATCH))
    assert (found.name, found.made_by, found.kernel) == ("kpatch_fix", "kpatch", "6.1.0-56-amd64")
    assert functions(found) == BOTH
    assert [f.old_size for f in found.functions] == [33, 18] and all(f.new_size for f in found.functions)
    assert [tuple(c) for c in found.callbacks] == [
        ("xfs", "pre_patch", "before"),
        ("vmlinux", "post_unpatch", "after"),
    ]
    assert found.patch is not None and found.patch.replace is None
    assert found.checksums["kpatch"] == "5ac49bad6e7cfa5c4fb8ce2a2a9d86cf" and not found.problems


@pytest.mark.parametrize("callbacks", [True, False])
@pytest.mark.parametrize("prefix", ["__", ".init."])
def test_of_klp_build(compiled: Build, callbacks: bool, prefix: str) -> None:
    text = klp_build(funcs=f"{prefix}klp_funcs", objects=f"{prefix}klp_objects", callbacks=callbacks)
    found = inspected(compiled(text))
    assert found.made_by == "klp-build" and not found.problems
    assert functions(found) == [*BOTH, ("xfs", "put", 1, "after")]
    wanted = [("vmlinux", "pre_patch", "before"), ("vmlinux", "post_unpatch", "after")]
    assert [tuple(c) for c in found.callbacks] == (wanted if callbacks else [])


@pytest.mark.parametrize(("func", "obj"), [(128, 120), (128, 136), (96, 88), (200, 160)])
@pytest.mark.parametrize("symbols", ["with symbols", "without"])
def test_of_a_struct_klp_patch_whatever_its_size(compiled: Build, func: int, obj: int, symbols: str) -> None:
    module = compiled(vendor(func, obj))
    if symbols == "without":  # as after `strip --strip-unneeded`: the arrays have no symbols that tell their size
        local = ("of_kernel", "of_xfs", "objects", "states", "patch", "decoy")
        module = replace(module, symbols=tuple(s._replace(size=0) if s.name in local else s for s in module.symbols))
    found = inspected(module)
    assert found.made_by == "hand or another tool" and not found.problems
    assert functions(found) == [BOTH[0], ("vmlinux", "size", 4, "size"), ("xfs", "xfs_get_size", 0, "size")]
    assert [tuple(c) for c in found.callbacks] == [
        ("vmlinux", "pre_patch", "before"),
        ("vmlinux", "post_unpatch", "after"),
        ("ext4", "post_patch", "after"),
    ]
    assert found.patch is not None and found.patch.replace is True
    assert found.patch.states == (SystemState(7, 1), SystemState(12, 3))
    assert found.patch.objects == ("vmlinux", "ext4", "xfs")


def test_what_cannot_be_told_is_said(compiled: Build) -> None:
    """A damaged module is shown as far as it can be read, with what is wrong."""
    cut = compiled(KPATCH)
    rows = cut.by_name[".kpatch.funcs"]
    sections = tuple(s._replace(size=100, data=s.data[:100]) if s is rows else s for s in cut.sections)
    relocations = {i: tuple(r for r in rs if r.offset < 100) for i, rs in cut.relocations.items()}
    found = inspected(replace(cut, sections=sections, relocations=relocations))
    assert found.patch is None and found.name == "kpatch_fix"
    assert found.problems == ("section .kpatch.funcs+0x64: its rows are not of 56 bytes",)
    with pytest.raises(InputError, match=r"no struct klp_patch"):
        written_patch(compiled("int f(void) { return 1; }"))
    with pytest.raises(InputError, match="rows of no known layout"):
        written_patch(compiled(klp_build().replace("{ 0, funcs, { { before, 0, 0, after } }, 1 }", "{ 0, funcs }")))


def test_another_version_is_told_by_its_code(compiled: Build) -> None:
    first, second = inspected(compiled(KPATCH)), inspected(compiled(KPATCH.replace("+ 3", "+ 4")))
    moved = inspected(compiled(KPATCH.replace("int show", "int first(void) { return 8; } int show")))
    found = compare(first, second)
    assert [now.name for _, now in found.changed] == ["get_size"]
    assert [row.name for row in found.same] == ["cmdline_proc_show"] and not found.added and not found.facts
    assert compare(first, moved).is_empty and compare(first, first).is_empty
    other = inspected(compiled(vendor()))
    assert [row.name for row in compare(first, other).added] == ["size", "xfs_get_size"]
    assert [row.name for row in compare(first, other).removed] == ["get_size"]
    assert {what for what, *_ in compare(first, other).facts} >= {"name", "made by", "replace", "callbacks", "states"}


def test_what_is_no_module_is_refused(compiled: Build, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it has no \.modinfo"):
        inspected(compiled("int f(void) { return 1; }"))


def test_a_signature_is_told(compiled: Build, tmp_path: Path) -> None:
    """Made by openssl as scripts/sign-file.c of the kernel makes it; damaged ones are named."""
    need("openssl")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    module = write_object(compiled(KPATCH))
    (tmp_path / "x.ko").write_bytes(module)
    openssl(
        *[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "k.pem",
            "-out",
            "c.pem",
            "-subj",
            "/CN=Tester",
            "-days",
            "2",
        ]
    )
    sign = "cms -sign -binary -noattr -nocerts -md sha256 -in x.ko -signer c.pem -inkey k.pem -outform DER -out s"
    openssl(*sign.split())
    message = (tmp_path / "s").read_bytes()
    end = struct.pack(">5B3xI", 0, 0, 2, 0, 0, len(message)) + b"~Module signature appended~\n"
    found = inspect(module + message + end)
    assert found.signature is not None and not found.problems
    assert (found.signature.issuer, found.signature.digest) == ("Common Name: Tester", "sha256")
    assert found.signature.size == len(message + end)
    assert found.checksums["sha256 without signature"] == hashlib.sha256(module).hexdigest()
    for broken, why in (
        (message[:-9] + end, "its signature cannot be read"),
        (message + end.replace(b"\2", b"\1", 1), "kind 1, not PKCS#7"),
    ):
        (problem,) = inspect(module + broken).problems
        assert why in problem

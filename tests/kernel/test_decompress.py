"""Every compression a bzImage can have, and one clear line for everything that is none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builder.binary.kernel import Kernel
from builder.binary.kernel.decompress import decompress, extract_vmlinux
from builder.errors import KernelError
from tests.kernel.conftest import Opener
from tests.kernel.synthetic import PACKERS, bzimage, vmlinux


@pytest.fixture(scope="module")
def elf() -> bytes:
    return vmlinux()


@pytest.mark.parametrize("kind", PACKERS)
def test_bzimage(elf: bytes, kind: str) -> None:
    assert extract_vmlinux(bzimage(elf, kind), where="image") == elf


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_vmlinux(elf: bytes, kind: str) -> None:
    assert extract_vmlinux(PACKERS[kind](elf), where="image") == elf
    assert decompress(PACKERS[kind](elf), where="image") == elf


def test_lz4_blocks_of_eight_megabytes() -> None:
    content = b"\x7fELF" + bytes(range(256)) * 70_000
    assert len(content) > 2 * (8 << 20)
    assert extract_vmlinux(bzimage(content, "lz4"), where="image") == content


def test_plain_vmlinux_is_used_where_it_is(elf: bytes, opened: Opener) -> None:
    kernel = opened(elf)
    assert kernel.vmlinux == kernel.path


def test_extracted_vmlinux_keeps_what_follows_it(elf: bytes, opened: Opener) -> None:
    kernel = opened(bzimage(elf + b"relocations", "zstd"))
    assert kernel.vmlinux != kernel.path
    assert kernel.vmlinux.read_bytes() == elf + b"relocations"


@pytest.mark.parametrize("kind", PACKERS)
def test_truncated_bzimage(elf: bytes, kind: str, opened: Opener) -> None:
    image = bzimage(elf, kind)
    with pytest.raises(KernelError, match=r"image: truncated: its kernel ends at byte \d+, the file at"):
        opened(image[: len(image) // 2])


@pytest.mark.parametrize("kind", PACKERS)
def test_stream_that_ends_early(elf: bytes, kind: str) -> None:
    packed = PACKERS[kind](elf)
    with pytest.raises(KernelError, match=kind):
        extract_vmlinux(bzimage(elf, kind, packed=packed[: len(packed) // 2]), where="image")


@pytest.mark.parametrize("kind", ["gzip", "xz", "zstd", "bzip2"])
def test_damaged_stream(elf: bytes, kind: str) -> None:
    packed = bytearray(PACKERS[kind](elf))
    for i in range(len(packed) // 2, len(packed) // 2 + 64):
        packed[i] ^= 0x5A
    with pytest.raises(KernelError, match=f"{kind} stream is damaged"):
        extract_vmlinux(bzimage(elf, kind, packed=bytes(packed)), where="image")


def test_other_size_than_recorded(elf: bytes) -> None:
    with pytest.raises(KernelError, match=rf"decompresses to {len(elf)} bytes where {len(elf) + 1} are recorded"):
        extract_vmlinux(bzimage(elf, "zstd", size=len(elf) + 1), where="image")


def aarch64_image() -> bytes:
    return b"MZ".ljust(0x38, b"\0") + b"ARM\x64" + bytes(4096)


def elf_header(machine: int, *, kind: int = 2, bits: int = 2) -> bytes:
    return b"\x7fELF" + bytes([bits, 1, 1]).ljust(12, b"\0") + struct.pack("<HH", kind, machine) + bytes(100)


STRANGE = {
    "text": (b"# not a kernel\n" * 100, "a text file, no kernel image"),
    "empty": (b"", "an empty file"),
    "noise": (bytes(range(256)) * 8, "no kernel image"),
    "aarch64": (aarch64_image(), "a kernel for AArch64"),
    "aarch64 packed": (PACKERS["gzip"](aarch64_image()), "no ELF: a kernel for AArch64"),
    "aarch64 elf": (elf_header(183), "a kernel for AArch64"),
    "i386 elf": (elf_header(3, bits=1), "a kernel for 32-bit x86"),
    "module": (elf_header(62, kind=1), "a relocatable object"),
    "no segments": (elf_header(62), "without a loadable segment"),
    "lzo": (bzimage(b"", packed=b"\x89LZO" + bytes(60)), "compressed with lzo"),
    "unknown": (
        bzimage(b"", packed=b"\x01\x02\x03\x04" + bytes(60)),
        "unknown compression, magic 01 02 03 04",
    ),
    "package": (b"!<arch>\ndebian-binary   1", "a package of Debian, no kernel image: name the kernel's release"),
    "short elf": (b"\x7fELF\x02\x01\x01", "no ELF file"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_kernel(name: str, opened: Opener) -> None:
    content, message = STRANGE[name]
    with pytest.raises(KernelError, match=message) as caught:
        opened(content)
    assert str(caught.value).count("\n") == 0
    assert caught.value.where is not None and caught.value.where.endswith("image")
    assert caught.value.exit_status == 2


def test_vmlinux_cut_off(elf: bytes, opened: Opener) -> None:
    with pytest.raises(KernelError, match=r"truncated: its segments end at byte \d+, the file at"):
        opened(elf[:-5000])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="no such file"):
        Kernel.open(tmp_path / "nothing")
    with pytest.raises(KernelError, match="a directory"):
        Kernel.open(tmp_path)


def test_unknown_release(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"9\.9\.9-none: neither a file nor a release .* /boot/vmlinuz-9\.9\.9-none"):
        Kernel.open("9.9.9-none", cache=tmp_path)
    with pytest.raises(
        KernelError, match=r"-dbg: a package of debug information.* 9\.9\.9-none, or .*/vmlinux-9\.9\.9-none"
    ):
        Kernel.open("9.9.9-none-dbg", cache=tmp_path)

"""Bombs: small inputs that ask for gigabytes, of every kind; what they get is an error that names the bound."""

from __future__ import annotations

import bz2
import lzma
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lz4.block
import pytest
import zstandard

from builder.acquire import bounds
from builder.arch import TARGET
from builder.binary import ObjectFile, Section, SectionIndex, elf, write_object
from builder.binary.kernel.decompress import decompress
from builder.emit.fragments import Fragment
from builder.emit.link import Linker
from builder.errors import InputError, KernelError
from tests.kernel.synthetic import PACKERS, bzimage, vmlinux

MIB = 1 << 20
BOMB = 640 * MIB
"""What a stream expands to: ten times what it may."""
MOST_MEMORY = 320 * MIB
"""What a process may take: a quarter for Python and its libraries, and the content three times (in parts, joined)."""
MOST_SECONDS = 20.0
"""CPU time, of which writing the cache of the kernel is the most."""
BOUND = re.compile(r"would take more than (\d+) MiB, the bound for \d+ bytes")


def zeros(compressor: object, head: bytes = b"\x7fELF") -> bytes:
    """A stream of BOMB bytes, most of them zeros."""
    feed = compressor.compress  # type: ignore[attr-defined]
    chunk = bytes(16 * MIB)
    parts: list[bytes] = [feed(head), *(feed(chunk) for _ in range(BOMB // len(chunk)))]
    last: bytes = compressor.flush()  # type: ignore[attr-defined]
    return b"".join((*parts, last))


def lz4_zeros() -> bytes:
    block: bytes = lz4.block.compress(bytes(8 * MIB), store_size=False)
    return b"\x02\x21\x4c\x18" + (struct.pack("<I", len(block)) + block) * (BOMB // (8 * MIB))


STREAMS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: zeros(zlib.compressobj(1, wbits=31)),
    "xz": lambda: zeros(lzma.LZMACompressor(preset=0)),
    "lzma": lambda: zeros(lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)),
    "bzip2": lambda: zeros(bz2.BZ2Compressor(1)),
    "zstd": lambda: zeros(zstandard.ZstdCompressor().compressobj()),
    "lz4": lz4_zeros,
}


def section(index: int, name: str, kind: int = elf.SHT_PROGBITS, data: bytes = b"", **more: int) -> Section:
    size = more.pop("size", len(data))
    flags = more.pop("flags", elf.SHF_ALLOC)
    return Section(SectionIndex(index), name, kind, flags, size, data, **more)  # type: ignore[arg-type]


def object_of(*sections: Section) -> bytes:
    null = Section(SectionIndex(0), "", elf.SHT_NULL, 0, 0, b"", align=0)
    names = section(len(sections) + 1, ".shstrtab", elf.SHT_STRTAB, flags=0)
    return write_object(ObjectFile("bomb", elf.EM_X86_64, elf.ET_REL, (null, *sections, names), (), {}))


def headers(count: int, fill: Callable[[bytes], bytes], content: bytes) -> bytes:
    """An object of `count` sections which all have the header that `fill` makes of that of the only one."""
    data = bytearray(object_of(section(1, "x", data=content)))
    (shoff,) = struct.unpack_from("<Q", data, 40)
    row = fill(bytes(data[shoff + 64 : shoff + 128]))
    struct.pack_into("<HH", data, 60, count + 2, 2)
    data[shoff:] = data[shoff : shoff + 64] + row + data[shoff + 128 : shoff + 192] + row * (count - 1)
    return bytes(data)


def overlapping() -> bytes:
    """4,000 sections that all hold the same 256 KiB: as many copies of it."""
    return headers(4000, lambda row: row, bytes(256 * 1024))


def long_names() -> bytes:
    """60,000 sections, each named by a text of 100 KiB."""
    data = bytearray(headers(60000, lambda row: row[:32] + bytes(8) + row[40:], bytes(8)))
    (shoff,) = struct.unpack_from("<Q", data, 40)
    place = len(data)
    struct.pack_into("<QQ", data, shoff + 128 + 24, place, 100 * 1024)
    return bytes(data) + b"n" * (100 * 1024 - 1) + b"\0"


def compressed(kind: int, stream: bytes, size: int) -> bytes:
    content = struct.pack("<IIQQ", kind, 0, size, 1) + stream
    return object_of(section(1, ".debug_info", data=content, flags=elf.SHF_COMPRESSED))


def many_segments(elf_file: bytes) -> bytes:
    out = bytearray(elf_file)
    struct.pack_into("<Q", out, 64 + 40, 1 << 40)
    return bytes(out)


class Bomb(NamedTuple):
    """`make` the input; `command` reads it, `{}` being its file and `{kernel}` a kernel."""

    name: str
    make: Callable[[], bytes]
    command: tuple[str, ...]
    suffix: str = ".o"


DIFF, CHECK = ("diff", "{}", "{}"), ("check", "{}", "--kernel", "{kernel}")
OBJECT = (*CHECK, "--object", "bomb={}")
BOMBS = (
    *(Bomb(f"module {kind}", make, CHECK, f".ko.{kind}") for kind, make in STREAMS.items()),
    *(
        Bomb(
            f"kernel {kind}",
            lambda make=make: bzimage(b"", packed=make() + struct.pack("<I", BOMB + 4)),  # type: ignore[misc]
            ("check", "{}", "--kernel", "{}"),
            "",
        )
        for kind, make in STREAMS.items()
    ),
    Bomb("debug zlib", lambda: compressed(1, zeros(zlib.compressobj(1)), BOMB + 4), DIFF),
    Bomb("debug zstd", lambda: compressed(2, STREAMS["zstd"](), BOMB + 4), DIFF),
    Bomb("nobits", lambda: object_of(section(1, ".bss", elf.SHT_NOBITS, size=1 << 40, flags=3)), DIFF),
    Bomb("nobits module", lambda: object_of(section(1, ".bss", elf.SHT_NOBITS, size=1 << 31, flags=3)), OBJECT, ".ko"),
    Bomb("nobits table", lambda: object_of(section(1, "__bug_table", elf.SHT_NOBITS, size=1 << 33)), DIFF),
    Bomb(
        "alignment", lambda: headers(60, lambda row: row[:48] + struct.pack("<Q", 1 << 31) + row[56:], bytes(8)), DIFF
    ),
    Bomb("overlapping", overlapping, DIFF),
    Bomb("names", long_names, DIFF),
    Bomb("segments", lambda: many_segments(vmlinux()), ("check", "{}", "--kernel", "{}"), ""),
)


class Cost(NamedTuple):
    """What a process said and took: bytes of memory at most, seconds of CPU time."""

    status: int
    said: str
    memory: int
    seconds: float


def cost(*words: str, cache: Path) -> Cost:
    """Run the command in a process of its own and measure that."""
    environment = {**os.environ, "BESPOKE_CACHE": str(cache), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "tests.support.measured", *words]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    said, _, took = done.stdout.rstrip().rpartition("\n")
    memory, seconds = took.split()
    return Cost(done.returncode, said, int(memory), float(seconds))


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.name)
def test_a_bomb_is_an_error_that_names_file_and_bound(
    bomb: Bomb, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    place = tmp_path / f"bomb{bomb.suffix}"
    place.write_bytes(bomb.make())
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(vmlinux())
    words = [word.replace("{kernel}", str(kernel)).replace("{}", str(place)) for word in bomb.command]
    took = cost(*words, cache=tmp_path / "cache")
    record_property("memory", took.memory)
    print(f"{bomb.name}: {place.stat().st_size} bytes, {took.memory >> 20} MiB, {took.seconds:.1f} s")
    assert str(place) in took.said and BOUND.search(took.said.replace("\n", " ")), took.said
    assert took.status in (1, 2)
    assert took.memory < MOST_MEMORY
    assert took.seconds < MOST_SECONDS


@pytest.mark.parametrize("kind", PACKERS)
def test_what_expands_to_the_bound_is_read(kind: str) -> None:
    content = b"\x7fELF" + bytes(bounds.FREE - 4)
    assert decompress(PACKERS[kind](content), where="input") == content
    with pytest.raises(KernelError, match=rf"input: the content of its {kind} stream would take more than 64 MiB"):
        decompress(PACKERS[kind](content + b"\0"), where="input")


def test_the_bound() -> None:
    assert [bounds.most(size) >> 20 for size in (0, 4 << 20, 8 << 20, 256 << 20, 1 << 40)] == [64, 64, 128, 4096, 4096]


@pytest.mark.parametrize("command", ["diff", "check"])
def test_a_file_that_is_larger_than_any_may_be(command: str, tmp_path: Path) -> None:
    place, kernel = tmp_path / "sparse.ko", tmp_path / "vmlinux"
    kernel.write_bytes(vmlinux())
    with place.open("wb") as file:
        file.truncate(bounds.TOTAL + 1)
    rest = (str(place),) if command == "diff" else ("--kernel", str(kernel))
    for path, says in ((str(place), "more than 4 GiB"), ("/dev/zero", "is a device, no file")):
        took = cost(command, path, *rest, cache=tmp_path / "cache")
        assert took.status == 2 and took.said.startswith(f"bespoke: {path}: ") and says in took.said
        assert took.memory < MOST_MEMORY


def test_alignments_that_a_link_adds_up() -> None:
    """Each is within the bound of its object, and a thousand fragments of it are not."""
    wide = [Fragment((0, i), ".data", 3, False, 1 << 20, 0, b"x", 1) for i in range(1000)]
    with pytest.raises(InputError, match="bomb: the module would be larger than 64 MiB"):
        Linker(TARGET, "bomb").add(wide)

"""Small kernel images, made to order: the tables of a vmlinux in each layout that kernels have had.

Written from the description of the formats (scripts/kallsyms.c,
include/linux/export-internal.h, Documentation/bpf/btf.rst), independently of
the readers that they test.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import lz4.block
import zstandard

from builder.binary import Address

BASE = Address(0xFFFFFFFF81000000)
TEXT = 0x1000
FILE_OFFSET = 0x1000
LAYOUTS = ("6.1", "6.1-not-percpu", "6.12", "6.12-not-percpu", "7.2", "entries-first")

Row = tuple[int, str, str]
"""Address, type, name."""


@dataclass(frozen=True)
class Exported:
    name: str
    address: Address
    crc: int = 0
    gpl: bool = False
    namespace: str | None = None


def functions(count: int = 2600) -> list[Row]:
    """Enough symbols for a believable table, some names with several owners, some long."""
    rows: list[Row] = [(BASE, "T", "_stext"), (BASE + TEXT * 16, "T", "_etext")]
    for i in range(count):
        name = f"do_thing_{i * 7919 % 10007:05d}" if i % 10 else "helper"
        rows.append((BASE + TEXT + 16 * i, "tT"[i % 2], name + ("_x" * 150 if i % 500 == 3 else "")))
    return rows


def vmlinux(
    layout: str = "6.1",
    *,
    rows: Sequence[Row] | None = None,
    exports: Sequence[Exported] = (Exported("_stext", BASE),),
    btf: bytes = b"",
    release: str = "6.1.0-test",
    texts: bool = True,
    machine: int = 62,
    tail: bytes = b"",
) -> bytes:
    """An ELF with one segment at BASE that has kallsyms, banner, vermagic, exports and BTF."""
    symbols = list(functions() if rows is None else rows)
    space = max(address for address, _, _ in symbols if address >> 63) - BASE + TEXT
    out = bytearray(space)

    def place(content: bytes, align: int = 8) -> int:
        out.extend(bytes(-len(out) % align))
        out.extend(content)
        return BASE + len(out) - len(content)

    if texts:
        banner = f"Linux version {release} (somebody) (gcc) #1 SMP\n\0".encode()
        symbols.append((place(banner), "D", "linux_banner"))
        symbols.append((place(f"{release} SMP preempt mod_unload \0".encode()), "r", "vermagic"))
    _place_exports(place, symbols, exports, one_table=layout == "7.2")
    if btf:
        start = place(btf)
        symbols += [(start, "R", "__start_BTF"), (start + len(btf), "R", "__stop_BTF")]
    symbols.sort(key=lambda row: row[0])
    _place_kallsyms(out, symbols, layout)
    out.extend(bytes(64))
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, BASE, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    program = struct.pack("<IIQQQQQQ", 1, 7, FILE_OFFSET, BASE, BASE & 0x7FFFFFFF, len(out), len(out) + 4096, 4096)
    return (ident + header + program).ljust(FILE_OFFSET, b"\0") + bytes(out) + tail


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"


def _place_exports(
    place: Callable[..., int], symbols: list[Row], exports: Sequence[Exported], *, one_table: bool
) -> None:
    groups = (
        [("", list(exports))]
        if one_table
        else [("", [e for e in exports if not e.gpl]), ("_gpl", [e for e in exports if e.gpl])]
    )
    for suffix, group in groups:
        names = [place(e.name.encode("utf-8", "surrogateescape") + b"\0", 1) for e in group]
        spaces = [
            None if e.namespace is None else place(e.namespace.encode("utf-8", "surrogateescape") + b"\0", 1)
            for e in group
        ]
        start = place(b"", 4)
        table = b""
        for i, (export, name, space) in enumerate(zip(group, names, spaces, strict=True)):
            at = start + 12 * i
            value = (export.address - at + (1 << 31)) % (1 << 32) - (1 << 31)
            table += struct.pack("<iii", value, name - at - 4, space - at - 8 if space else 0)
        place(table, 4)
        symbols += [
            (start, "R", f"__start___ksymtab{suffix}"),
            (start + len(table), "R", f"__stop___ksymtab{suffix}"),
        ]
        if one_table:
            flags = place(bytes(export.gpl for export in group), 1)
            symbols += [(flags, "R", "__start___kflagstab"), (flags + len(group), "R", "__stop___kflagstab")]
        else:
            crcs = place(b"".join(struct.pack("<I", export.crc) for export in group), 4)
            symbols += [
                (crcs, "R", f"__start___kcrctab{suffix}"),
                (crcs + 4 * len(group), "R", f"__stop___kcrctab{suffix}"),
            ]


def _place_kallsyms(out: bytearray, symbols: Sequence[Row], layout: str) -> None:
    """Append the tables in the order of the layout; align each as that kernel does."""
    align = 4 if layout == "7.2" else 8
    tokens = _tokens([kind + name for _, kind, name in symbols])
    names, markers = _names(symbols, tokens)
    token_table = b"".join(token.encode("latin-1") + b"\0" for token in tokens)
    at, index = 0, b""
    for token in tokens:
        index += struct.pack("<H", at)
        at += len(token) + 1

    def put(content: bytes) -> int:
        out.extend(bytes(-len(out) % align))
        out.extend(content)
        return len(out) - len(content)

    def offsets() -> None:
        if layout in ("7.2", "entries-first"):
            start = put(b"")
            for i, (address, _, _) in enumerate(symbols):
                out.extend(struct.pack("<i", address - (BASE + start + 4 * i)))
            return
        base = min(address for address, _, _ in symbols if address >> 63)
        content = b""
        for address, _, _ in symbols:
            if layout.endswith("-not-percpu"):
                content += struct.pack("<I", address - base)
            elif address >> 63:
                content += struct.pack("<i", base - address - 1)
            else:
                content += struct.pack("<i", address)
        put(content)
        put(struct.pack("<Q", base))

    first = layout.startswith("6.1-") or layout in ("6.1", "entries-first")
    if first:
        offsets()
    put(struct.pack("<I", len(symbols)))
    put(names)
    put(b"".join(struct.pack("<I", marker) for marker in markers))
    by_name = sorted(range(len(symbols)), key=lambda i: (symbols[i][2], symbols[i][0], i))
    seqs = b"".join(i.to_bytes(3, "big") for i in by_name)
    if first:
        put(seqs)
    put(token_table)
    put(index)
    if not first:
        offsets()
        put(seqs)


def _tokens(texts: Sequence[str]) -> list[str]:
    """256 tokens: each character that is used stands for itself, the rest are frequent pairs."""
    used = {ord(char) for text in texts for char in text} | set(range(ord("0"), ord("9") + 1))
    pairs = Counter(text[i : i + 2] for text in texts for i in range(1, len(text) - 1))
    frequent = iter([pair for pair, _ in pairs.most_common()] + [""] * 256)
    return [chr(i) if i in used else next(frequent) for i in range(256)]


def _names(symbols: Sequence[Row], tokens: Sequence[str]) -> tuple[bytes, list[int]]:
    number = {token: i for i, token in enumerate(tokens) if token}
    stream, markers = bytearray(), []
    for i, (_, kind, name) in enumerate(symbols):
        if i % 256 == 0:
            markers.append(len(stream))
        packed = bytearray([number[kind]])
        at = 0
        while at < len(name):
            pair = name[at : at + 2]
            step = 2 if len(pair) == 2 and pair in number else 1
            packed.append(number[name[at : at + step]])
            at += step
        size = len(packed)
        stream += bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        stream += packed
    return bytes(stream), markers


def lz4_legacy(data: bytes) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[at : at + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


def xz(data: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 0}]
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "xz": xz,
    "zstd": lambda data: zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data),
    "lz4": lz4_legacy,
    "bzip2": lambda data: bz2.compress(data, 1),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
}


def bzimage(content: bytes, kind: str = "gzip", *, size: int | None = None, packed: bytes | None = None) -> bytes:
    """A bzImage whose setup is two sectors, and whose payload stands behind 256 bytes of a decompressor."""
    payload = packed if packed is not None else PACKERS[kind](content)
    if kind != "gzip" or size is not None:
        payload += struct.pack("<I", len(content) if size is None else size)
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x202:0x208] = b"HdrS" + struct.pack("<H", 0x20F)
    struct.pack_into("<II", setup, 0x248, 256, len(payload))
    return bytes(setup) + b"\xcc" * 256 + payload + b"\xcc" * 64


class BtfWriter:
    """Types by number from 1, in the order in which they are added."""

    def __init__(self) -> None:
        self._types = bytearray()
        self._strings = bytearray(b"\0")
        self._places: dict[str, int] = {"": 0}
        self.count = 0

    def text(self, name: str) -> int:
        if name not in self._places:
            self._places[name] = len(self._strings)
            self._strings += name.encode() + b"\0"
        return self._places[name]

    def add(self, kind: int, name: str, value: int, extra: bytes = b"", *, vlen: int = 0, flag: bool = False) -> int:
        info = kind << 24 | vlen | flag << 31
        self._types += struct.pack("<III", self.text(name), info, value) + extra
        self.count += 1
        return self.count

    def integer(self, name: str, size: int) -> int:
        return self.add(1, name, size, struct.pack("<I", size * 8))

    def pointer(self, target: int) -> int:
        return self.add(2, "", target)

    def array(self, element: int, length: int) -> int:
        return self.add(3, "", 0, struct.pack("<III", element, 0, length))

    def struct(
        self,
        name: str,
        size: int,
        members: Sequence[tuple[str, int, int]],
        *,
        union: bool = False,
        bits: bool = False,
    ) -> int:
        """`members`: name, type, offset in bits (with `bits`: the raw word, size in the upper eight)."""
        extra = b"".join(struct.pack("<III", self.text(name), kind, at) for name, kind, at in members)
        return self.add(5 if union else 4, name, size, extra, vlen=len(members), flag=bits)

    def enum(self, name: str, values: Sequence[tuple[str, int]], *, signed: bool = False) -> int:
        extra = b"".join(struct.pack("<II", self.text(word), value & 0xFFFFFFFF) for word, value in values)
        return self.add(6, name, 4, extra, vlen=len(values), flag=signed)

    def enum64(self, name: str, values: Sequence[tuple[str, int]], *, signed: bool = False) -> int:
        extra = b"".join(
            struct.pack("<III", self.text(word), value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF) for word, value in values
        )
        return self.add(19, name, 8, extra, vlen=len(values), flag=signed)

    def section(self) -> bytes:
        sizes = (0, len(self._types), len(self._types), len(self._strings))
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + bytes(self._types + self._strings)

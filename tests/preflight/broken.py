"""A livepatch broken in one way at a time: what a kernel refuses, what it takes, and what it takes and regrets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from builder.binary import elf

FIELDS = ("name", "type", "flags", "addr", "offset", "size", "link", "info", "align", "entsize")


class Editor:
    """The bytes of a module, changed in place; sections by name."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        header = elf.LITTLE.header.unpack_from(data, elf.IDENT)
        self.shoff, self.count, self.shstrndx = header[5], header[11], header[12]
        self.rows = [elf.LITTLE.section.unpack_from(data, self.shoff + 64 * i) for i in range(self.count)]
        names = self.rows[self.shstrndx][4]
        self.names = [self._text(names + row[0]) for row in self.rows]

    def _text(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode()

    def index(self, name: str) -> int:
        return self.names.index(name)

    def get(self, section: str | int, field: str) -> int:
        number = section if isinstance(section, int) else self.index(section)
        return int(self.rows[number][FIELDS.index(field)])

    def set(self, section: str | int, **values: int) -> Editor:
        number = section if isinstance(section, int) else self.index(section)
        row = list(self.rows[number])
        for field, value in values.items():
            row[FIELDS.index(field)] = value
        self.rows[number] = tuple(row)
        elf.LITTLE.section.pack_into(self.data, self.shoff + 64 * number, *row)
        return self

    def header(self, field: int, value: int) -> Editor:
        row = list(elf.LITTLE.header.unpack_from(self.data, elf.IDENT))
        row[field] = value
        elf.LITTLE.header.pack_into(self.data, elf.IDENT, *row)
        return self

    def place(self, section: str, offset: int = 0) -> int:
        return self.get(section, "offset") + offset

    def put(self, section: str, offset: int, data: bytes) -> Editor:
        at = self.place(section, offset)
        self.data[at : at + len(data)] = data
        return self

    def replace(self, section: str, old: bytes, new: bytes) -> Editor:
        """Text for text of the same length, the first occurrence in a section."""
        assert len(old) == len(new), (old, new)
        start = self.place(section)
        at = self.data.index(old, start, start + self.get(section, "size"))
        self.data[at : at + len(new)] = new
        return self

    def rename(self, section: str, new: str) -> Editor:
        """A section by another name that is no longer than its own."""
        at = self.rows[self.shstrndx][4] + self.get(section, "name")
        size = len(section)
        assert len(new) <= size
        self.data[at : at + size] = new.encode().ljust(size, b"\0")
        return self

    def symbol(self, name: str, **values: int) -> Editor:
        """Fields `info`, `shndx`, `value` of a symbol."""
        table, strings = self.place(".symtab"), self.place(".strtab")
        for at in range(table, table + self.get(".symtab", "size"), 24):
            row = list(elf.LITTLE.symbol.unpack_from(self.data, at))
            if self._text(strings + row[0]) == name:
                for field, value in values.items():
                    row[("name", "info", "other", "shndx", "value", "size").index(field)] = value
                elf.LITTLE.symbol.pack_into(self.data, at, *row)
                return self
        raise KeyError(name)

    def rela(self, section: str, number: int, **values: int) -> Editor:
        """Fields `offset`, `type`, `symbol`, `addend` of a relocation."""
        at = self.place(section, 24 * number)
        row = list(elf.LITTLE.rela.unpack_from(self.data, at))
        for field, value in values.items():
            row[("offset", "type", "symbol", "addend").index(field)] = value
        elf.LITTLE.rela.pack_into(self.data, at, *row)
        return self

    def rela_of(self, section: str, number: int) -> tuple[int, int, int, int]:
        offset, kind, symbol, addend = elf.LITTLE.rela.unpack_from(self.data, self.place(section, 24 * number))
        return offset, kind, symbol, addend

    def done(self) -> bytes:
        return bytes(self.data)


Break = Callable[[Editor], object]


def breaks(klp: str, klp_symbol: str, patched: str, sections: Sequence[str]) -> Iterator[tuple[str, Break]]:
    """Name and change. `klp` is the klp section, `klp_symbol` one that it uses, `patched` an old function's name;
    `sections` the module's: without versions there is nothing to break in them."""
    other = klp_symbol.rpartition(",")[0]
    yield "intact", lambda e: None
    # the ELF file
    yield "magic", lambda e: e.data.__setitem__(slice(0, 4), b"\x7fELG")
    yield "executable type", lambda e: e.header(0, elf.ET_EXEC)
    yield "another machine", lambda e: e.header(1, elf.EM_AARCH64)
    yield "section headers of another size", lambda e: e.header(10, 56)
    yield "section headers beyond the end", lambda e: e.header(5, len(e.data) + 64)
    yield "too many sections", lambda e: e.header(11, 4000)
    yield "no name table", lambda e: e.header(12, 0)
    yield "name table beyond the sections", lambda e: e.header(12, e.count + 3)
    yield "first section not null", lambda e: e.set(0, type=elf.SHT_PROGBITS)
    yield "a section beyond the end", lambda e: e.set(".text", size=1 << 24)
    yield "a section at no offset", lambda e: e.set(".data", offset=1 << 40)
    yield "name table without end", lambda e: e.set(e.shstrndx, size=e.get(e.shstrndx, "size") - 1)
    yield "truncated in half", lambda e: e.data.__delitem__(slice(len(e.data) // 2, None))
    yield "truncated to the header", lambda e: e.data.__delitem__(slice(64, None))
    yield "truncated header", lambda e: e.data.__delitem__(slice(40, None))
    yield "no symbol table", lambda e: e.set(".symtab", type=elf.SHT_PROGBITS)
    yield "symbols without strings", lambda e: e.set(".symtab", link=0)
    yield "a section's name beyond the table", lambda e: e.set(".text", name=1 << 20)
    # what it says of itself
    yield (
        "vermagic of another release",
        lambda e: e.put(".modinfo", e.data.index(b"vermagic=") + 9 - e.place(".modinfo"), b"9"),
    )
    yield "vermagic of another build", lambda e: e.replace(".modinfo", b"-amd64 SMP", b"-amd65 SMP")
    yield "vermagic with another flag", lambda e: e.replace(".modinfo", b" SMP ", b" SMQ ")
    yield "no vermagic", lambda e: e.replace(".modinfo", b"vermagic=", b"vermagik=")
    yield "no licence", lambda e: e.replace(".modinfo", b"license=", b"licence=")
    yield "another licence", lambda e: e.replace(".modinfo", b"license=GPL", b"license=XYZ")
    yield "not marked as a livepatch", lambda e: e.replace(".modinfo", b"livepatch=", b"livepadch=")
    yield "no name", lambda e: e.replace(".modinfo", b"name=", b"nane=")
    yield "no modinfo", lambda e: e.rename(".modinfo", ".modinfX")
    yield "two modinfos", lambda e: e.rename(".note.bespoke", ".modinfo")
    yield "imports a namespace", lambda e: e.replace(".modinfo", b"description=", b"import_ns=NS")
    yield "depends on something", lambda e: e.replace(".modinfo", b"depends=\0retpoline=Y", b"depends=nothing_nope")
    # struct module
    this = ".gnu.linkonce.this_module"
    yield "no struct module", lambda e: e.rename(this, ".gnu.linkonce.this_modulX")
    yield "struct module too short", lambda e: e.set(this, size=e.get(this, "size") - 64)
    yield "struct module not allocated", lambda e: e.set(this, flags=elf.SHF_WRITE)
    yield "two struct modules", lambda e: e.rename(".rela.gnu.linkonce.this_module", this)
    yield "struct module without contents", lambda e: e.set(this, type=elf.SHT_NOBITS)
    # versions
    if "__versions" in sections:
        yield "wrong CRC of module_layout", lambda e: _crc(e, b"module_layout")
        yield "wrong CRC of klp_enable_patch", lambda e: _crc(e, b"klp_enable_patch")
        yield "no CRC of klp_enable_patch", lambda e: e.replace("__versions", b"klp_enable_patch", b"klp_enable_patcX")
        yield "no CRC of module_layout", lambda e: e.replace("__versions", b"module_layout", b"module_layouX")
        yield "no versions", lambda e: e.rename("__versions", "__versionX")
        yield "versions cut", lambda e: e.set("__versions", size=64)
    # symbols
    yield "an unknown symbol", lambda e: e.replace(".strtab", b"klp_enable_patch\0", b"klp_enable_patcX\0")
    yield "a common symbol", lambda e: e.symbol("klp_enable_patch", shndx=elf.SHN_COMMON)
    yield "an absolute symbol for klp_enable_patch", lambda e: e.symbol("klp_enable_patch", shndx=elf.SHN_ABS)
    # sections
    yield "writable code", lambda e: e.set(".text", flags=e.get(".text", "flags") | elf.SHF_WRITE)
    yield "executable data", lambda e: e.set(".data", flags=e.get(".data", "flags") | elf.SHF_EXECINSTR)
    yield "two symbol tables", lambda e: e.set(".note.bespoke", type=elf.SHT_SYMTAB)
    yield "symbol names that are no table", lambda e: e.set(".strtab", type=elf.SHT_PROGBITS)
    # klp relocations
    yield "klp section without its flag", lambda e: e.set(klp, flags=elf.SHF_ALLOC)
    yield "klp section without a name", lambda e: e.rename(klp, ".klp.rela.")
    yield "klp section of another name", lambda e: e.rename(klp, ".klq.rela.vmlinux")
    yield "klp section for nothing", lambda e: e.set(klp, info=0)
    yield "klp section for another object", lambda e: e.rename(klp, ".klp.rela.vmlinuy..text"[: len(klp)])
    yield "a position that is not there", lambda e: e.replace(".strtab", f"{other},0".encode(), f"{other},9".encode())
    yield "a position of a unique symbol", lambda e: e.replace(".strtab", f"{other},0".encode(), f"{other},1".encode())
    yield "no position", lambda e: e.replace(".strtab", f"{other},0".encode(), f"{other};0".encode())
    yield "a klp symbol that is not there", lambda e: e.replace(".strtab", other.encode(), f"{other[:-1]}X".encode())
    yield (
        "a klp symbol of another object",
        lambda e: e.replace(".strtab", klp_symbol.encode(), klp_symbol.replace("vmlinux", "vmlinuy").encode()),
    )
    yield (
        "a klp symbol of another form",
        lambda e: e.replace(".strtab", klp_symbol.encode(), klp_symbol.replace(".klp.sym", ".klp.sim").encode()),
    )
    yield "a klp symbol that is undefined", lambda e: e.symbol(klp_symbol, shndx=0)
    yield "a klp symbol that is absolute", lambda e: e.symbol(klp_symbol, shndx=elf.SHN_ABS)
    yield "klp relocation of unknown type", lambda e: e.rela(klp, 0, type=77)
    yield "klp relocation on something", lambda e: e.put(".text", e.rela_of(klp, 0)[0], b"\x01\0\0\0")
    yield "klp relocation twice", lambda e: e.rela(klp, 1, offset=e.rela_of(klp, 0)[0])
    # relocations
    yield "relocation of unknown type", lambda e: e.rela(".rela.text", 1, type=99)
    yield "relocation on something", lambda e: e.put(".text", e.rela_of(".rela.text", 1)[0], b"\xff\xff\xff\xff")
    yield "32 bits too few", lambda e: e.rela(".rela.data", 1, type=10)
    yield "32 signed bits are enough", lambda e: e.rela(".rela.data", 1, type=11)
    yield "relocation to nothing", lambda e: e.rela(".rela.data", 1, type=0)
    # what livepatch is handed
    yield (
        "an old function that is not there",
        lambda e: e.replace(".rodata.str1.1", patched.encode() + b"\0", patched[:-1].encode() + b"X\0"),
    )
    yield "an old function's position", lambda e: e.put(".data", 16, struct.pack("<Q", 5))
    yield "a function without replacement", lambda e: e.rela(".rela.data", 1, type=0)
    yield "a function without name", lambda e: e.rela(".rela.data", 0, type=0)
    # tables
    yield "no return sites", lambda e: e.rename(".return_sites", ".return_sitez")
    yield "return sites cut", lambda e: e.set(".rela.return_sites", size=24)
    yield "unwinder tables that do not fit", lambda e: e.set(".orc_unwind", size=e.get(".orc_unwind", "size") - 6)
    yield (
        "traced entry elsewhere",
        lambda e: e.rela(".rela__mcount_loc", 0, addend=e.rela_of(".rela__mcount_loc", 0)[3] + 1),
    )
    yield "no traced entries", lambda e: e.rename("__mcount_loc", "__mcount_lox")


def _crc(editor: Editor, name: bytes) -> Editor:
    start = editor.place("__versions")
    at = editor.data.index(name + b"\0", start) - 8
    editor.data[at] ^= 1
    return editor


def broken(data: bytes, klp: str, klp_symbol: str, patched: str) -> dict[str, bytes]:
    """Every broken form of a livepatch by name."""
    found = {}
    for name, change in breaks(klp, klp_symbol, patched, Editor(data).names):
        editor = Editor(data)
        change(editor)
        found[name] = editor.done()
    return found

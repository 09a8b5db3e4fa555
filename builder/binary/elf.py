"""ELF-64 constants and record layouts (gABI chapter 4, "Object Files").

The record layouts are rows shared by the reader and the writer, so that the
two cannot disagree.
"""

from __future__ import annotations

import struct
from typing import Final

ET_REL: Final = 1
ET_EXEC: Final = 2

EM_X86_64: Final = 62
EM_AARCH64: Final = 183

SHT_NULL: Final = 0
SHT_PROGBITS: Final = 1
SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
SHT_RELA: Final = 4
SHT_NOTE: Final = 7
SHT_NOBITS: Final = 8
SHT_REL: Final = 9
SHT_SYMTAB_SHNDX: Final = 18

SHF_WRITE: Final = 0x1
SHF_ALLOC: Final = 0x2
SHF_EXECINSTR: Final = 0x4
SHF_MERGE: Final = 0x10
SHF_STRINGS: Final = 0x20
SHF_INFO_LINK: Final = 0x40
SHF_LINK_ORDER: Final = 0x80
SHF_GROUP: Final = 0x200
SHF_COMPRESSED: Final = 0x800
ELFCOMPRESS_ZLIB: Final = 1
ELFCOMPRESS_ZSTD: Final = 2
# include/linux/livepatch.h and include/uapi/linux/elf.h, v4.7: SHF_RELA_LIVEPATCH
SHF_RELA_LIVEPATCH: Final = 0x00100000

SHN_UNDEF: Final = 0
SHN_LORESERVE: Final = 0xFF00
# include/uapi/linux/elf.h, v4.7: SHN_LIVEPATCH
SHN_LIVEPATCH: Final = 0xFF20
SHN_ABS: Final = 0xFFF1
SHN_COMMON: Final = 0xFFF2
SHN_XINDEX: Final = 0xFFFF

STB_LOCAL: Final = 0
STB_GLOBAL: Final = 1
STB_WEAK: Final = 2

STT_NOTYPE: Final = 0
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_SECTION: Final = 3
STT_FILE: Final = 4

# The model keeps the reserved indices apart from real sections above 0xff00 by
# moving them out of the 16-bit range: SHN_ABS is RESERVED + 0xfff1, and so on.
RESERVED: Final = 1 << 32
ABS: Final = RESERVED | SHN_ABS
COMMON: Final = RESERVED | SHN_COMMON
LIVEPATCH: Final = RESERVED | SHN_LIVEPATCH


class Layout:
    """The records of one byte order; `order` is '<' or '>'."""

    def __init__(self, order: str) -> None:
        self.order = order
        # e_type e_machine e_version e_entry e_phoff e_shoff e_flags e_ehsize
        # e_phentsize e_phnum e_shentsize e_shnum e_shstrndx
        self.header = struct.Struct(order + "HHIQQQIHHHHHH")
        # sh_name sh_type sh_flags sh_addr sh_offset sh_size sh_link sh_info sh_addralign sh_entsize
        self.section = struct.Struct(order + "IIQQQQIIQQ")
        # st_name st_info st_other st_shndx st_value st_size
        self.symbol = struct.Struct(order + "IBBHQQ")
        # r_offset, the two halves of r_info (type, symbol; swapped in big endian), r_addend
        self.rela = struct.Struct(order + "QIIq")
        # ch_type ch_reserved ch_size ch_addralign
        self.compressed = struct.Struct(order + "IIQQ")
        self.word = struct.Struct(order + "I")

    @property
    def little(self) -> bool:
        """Whether the low half of a 64-bit word comes first."""
        return self.order == "<"


LITTLE: Final = Layout("<")
BIG: Final = Layout(">")
IDENT: Final = 16
HEADER_SIZE: Final = 64

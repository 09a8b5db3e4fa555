"""ELF objects as frozen values: the model, its one reader and its one writer."""

from builder.binary.kinds import Address, SectionIndex, SectionOffset, SymbolIndex
from builder.binary.objects import ObjectFile, Relocation, Section, String, Symbol
from builder.binary.reader import read_object
from builder.binary.writer import write_object

__all__ = [
    "Address",
    "ObjectFile",
    "Relocation",
    "Section",
    "SectionIndex",
    "SectionOffset",
    "String",
    "Symbol",
    "SymbolIndex",
    "read_object",
    "write_object",
]

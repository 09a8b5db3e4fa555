"""ELF objects as frozen values: the model, its one reader and its one writer."""

from builder.binary.objects import ObjectFile, Relocation, Section, String, Symbol
from builder.binary.reader import read_object
from builder.binary.writer import write_object

__all__ = ["ObjectFile", "Relocation", "Section", "String", "Symbol", "read_object", "write_object"]

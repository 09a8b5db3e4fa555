"""The kernel as a target, from its image alone: symbols, exports, layouts, bytes, modules."""

from builder.binary.kernel.exports import Export
from builder.binary.kernel.kaslr import KaslrRelocations
from builder.binary.kernel.layout import Member, StructLayout
from builder.binary.kernel.modules import read_module_bytes
from builder.binary.kernel.static import ImageSection, Segment, StaticImage
from builder.binary.kernel.survey import Features
from builder.binary.kernel.target import Kernel, KernelSymbol

__all__ = [
    "Export",
    "Features",
    "ImageSection",
    "KaslrRelocations",
    "Kernel",
    "KernelSymbol",
    "Member",
    "Segment",
    "StaticImage",
    "StructLayout",
    "read_module_bytes",
]

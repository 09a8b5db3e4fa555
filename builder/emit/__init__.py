"""The module: fragments, glue, one link, one write, one read-back."""

from builder.emit.glue import free_module_name, module_name
from builder.emit.module import Module, emit, parts_of

__all__ = ["Module", "emit", "free_module_name", "module_name", "parts_of"]

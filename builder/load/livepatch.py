"""Livepatch modules: their relocations, and where the old functions lead (kernel/livepatch/, v6.1 and v6.12)."""

from __future__ import annotations

from builder.binary import Section
from builder.image.simulated import SimulatedKernel
from builder.load.module import LoadedModule, Placed


def apply_section(kernel: SimulatedKernel, loaded: LoadedModule, table: Section, target: Placed, objname: str) -> None:
    """klp_apply_section_relocs()."""


def module_coming(kernel: SimulatedKernel, loaded: LoadedModule) -> None:
    """klp_module_coming()."""


def module_going(kernel: SimulatedKernel, loaded: LoadedModule) -> None:
    """klp_module_going()."""

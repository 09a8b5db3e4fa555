"""Where code lives: the simulated kernel, a guest in QEMU, this machine."""

from builder.image.boot import BootState
from builder.image.memory import AddressSpace, Memory, Region
from builder.image.simulated import SimulatedKernel

__all__ = ["AddressSpace", "BootState", "Memory", "Region", "SimulatedKernel"]

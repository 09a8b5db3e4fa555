"""A stock kernel in QEMU: booted in seconds, without root, driven from Python.

The listing in the order in which a boot uses it: `initramfs` makes the archive,
`qemu` runs the machine and keeps its console, `channel` carries commands and
data, `modules` finds what must be loaded before what, `log` reads what the
kernel said, `session` boots and gives commands, and `live` is the `Guest` that
people use::

    with Guest(kernel) as guest:
        print(guest.run("uname -r").output)
"""

from __future__ import annotations

from builder.image.guest.channel import Answer
from builder.image.guest.live import Guest
from builder.image.guest.log import KernelLog, taints
from builder.image.guest.modules import BootableKernel
from builder.image.guest.qemu import MachineConfig
from builder.image.guest.session import Share

__all__ = ["Answer", "BootableKernel", "Guest", "KernelLog", "MachineConfig", "Share", "taints"]

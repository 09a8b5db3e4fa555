"""Where code lives: the simulated kernel, a guest in QEMU, this machine."""

"""What would go wrong, said before anything is loaded.

`check` loads a module into the simulated kernel, `problems` are the things that
a kernel takes and then suffers from, and `fidelity` holds the simulated loader
against a real kernel, byte by byte. Nothing here knows of a kernel that is
patched while it runs (`builder/operate/`).
"""

"""Livepatches on a kernel that runs, and the probes that follow the code.

`live` loads, unloads and repairs, step by step, through the `Host` of
`builder/image/machine.py`: this machine, a guest, or the simulated kernel that
`simhost` makes one of. `trail` records every step beside the kernel, `observe`
reads what stands there, `planting` puts new probes where the code runs, and
`survey` says which version of what is active. `kprobes/` plans where each probe
goes in another version of its function.
"""

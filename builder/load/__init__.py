"""What becomes of a module: laid out, relocated, patched, redirected, taken out again.

The whole of it on a simulated kernel, from its vmlinuz alone::

    from builder import Kernel, load, simulate, unload
    from builder.load.livepatch import side_by_side

    simulated = simulate(Kernel.open("6.1.0-50-amd64"), cpu="max")  # patched as early boot patches it
    print(simulated.call("gcd", 12, 18).value)                      # executed: 6
    module = load("fix.ko", simulated)                              # every pass, and its klp_enable_patch()
    print(simulated.call("gcd", 12, 18).value)                      # the new code, through the old entry
    (patch,) = simulated.livepatches
    print(side_by_side(simulated, patch.objects[0].functions[0], 12, 18))   # both versions, the same input
    unload(module.name, simulated)                                  # every byte is as before

The listing as a module meets it: `module` reads the file, `accept` is what the
kernel looks at first, `layout` places sections, `relocate` writes relocations,
`passes/` patch what the tables name, `loader` is all of it in order; `livepatch`
and `overwrite` redirect functions; `boot` applies the same passes to vmlinux.
What a pass needs to know of the kernel is in a `BootState` (builder/image/boot.py)
and in the `facts` and `keys` of a `SimulatedKernel`. What is done with it stands in `builder/operate/`
(kernels that run) and `builder/preflight/` (what would go wrong).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """`from builder import load` is this package, and what a person means by it."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from builder.load.whole import load

        return load(*arguments, **options)


sys.modules[__name__].__class__ = _Callable

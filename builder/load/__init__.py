"""What becomes of a module: laid out, relocated, patched, redirected, taken out again.

The whole of it on a simulated kernel, from its vmlinuz alone::

    from builder.binary.kernel import Kernel
    from builder.image.derive import derive_state
    from builder.load.boot import boot
    from builder.load.livepatch import disable_patch, run_init, side_by_side
    from builder.load.loader import load_with_dependencies, unload_module

    kernel = Kernel.open("6.1.0-50-amd64")
    simulated = boot(kernel, derive_state(kernel, cpu="max"))       # patched as early boot patches it
    print(simulated.call("gcd", 12, 18).value)                      # executed: 6
    module = load_with_dependencies(simulated, "fix.ko")            # every pass, as the kernel does it
    patch = run_init(simulated, module)                             # its klp_enable_patch()
    print(simulated.call("gcd", 12, 18).value)                      # the new code, through the old entry
    print(side_by_side(simulated, patch.objects[0].functions[0], 12, 18))   # both versions, the same input
    disable_patch(simulated, module.name)
    unload_module(simulated, module.name)                           # every byte is as before

The listing as a module meets it: `module` reads the file, `accept` is what the
kernel looks at first, `layout` places sections, `relocate` writes relocations,
`passes/` patch what the tables name, `loader` is all of it in order; `livepatch`
and `overwrite` redirect functions; `boot` applies the same passes to vmlinux.
What a pass needs to know of the kernel is in a `BootState` (builder/image/boot.py)
and in the `facts` and `keys` of a `SimulatedKernel`. What is done with it stands in `builder/operate/`
(kernels that run) and `builder/preflight/` (what would go wrong).
"""

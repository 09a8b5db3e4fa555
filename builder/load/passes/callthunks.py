"""callthunks_patch_module_calls: call depth tracking (arch/x86/kernel/callthunks.c, v6.2 to v7.3).

Only where `retbleed=stuff` was given or chosen: each direct call goes to the
accounting stub in the padding before the function called, which is written
there when it is first needed, be it in another module: there it stays when this one goes.
`.call_sites`: s32, relative to itself; sites of static calls are none of them, so
`static_call` asks for the stub of its target. To v6.12 this came after
alternatives and looked at their sites too; now it comes before them, and the
replacements are among the call sites.
"""

from __future__ import annotations

from builder.binary import Address
from builder.errors import LoadError
from builder.load.passes.alternatives import NEW, moved_code, one_nop
from builder.load.passes.context import CALL, NOP1, Context, branch, relative

UNTRACKED = (
    "error_entry", "paranoid_entry", "xen_error_entry", "__switch_to_asm", "ret_from_fork", "soft_restart_cpu",
    "__fentry__",
)  # fmt: skip
"""skip_addr()"""


def apply(context: Context) -> None:
    if not context.kernel.state.counts_calls:
        return
    sites = []
    calls, alternatives = context.table(".call_sites"), context.table(".altinstructions")
    if calls is not None:
        sites += context.relative_sites(calls)
    if alternatives is not None and context.kernel.kernel.features.alternative_calls:
        content = context.content(alternatives)
        for at in range(0, len(content), NEW.size):
            sites.append(alternatives.address + at + relative(content, at))
    if not sites:
        return
    stubs = Stubs(context)
    for site in sites:
        code = context.memory.read(site, 5)
        if code[0] == CALL and _is_code(context, site):
            target = site + 5 + relative(code)
            counted = stubs.before(target)
            if counted != target:
                context.poke(site, branch(CALL, site, counted))


class Stubs:
    """The accounting stubs, each in the padding before its function. LoadError where the kernel has no template."""

    def __init__(self, context: Context) -> None:
        template, tail = (context.kernel.symbols.address(f"skl_call_thunk_{end}") for end in ("template", "tail"))
        if template is None or tail is None:
            raise LoadError("the kernel tracks the depth of calls, but has no skl_call_thunk_template")
        self._context = context
        self._template = template
        self._code = context.memory.read(template, tail - template)
        symbols = context.kernel.symbols
        self._skipped = {symbols.address(name) for name in UNTRACKED}
        start, stop = (symbols.address(f"__relocate_kernel_{end}") for end in ("start", "end"))
        self._kexec = range(start or 0, stop or 0)

    def before(self, target: Address) -> Address:
        """Where to call in order to be counted on the way to `target`: patch_dest().

        The function itself where there is no such place; the kernel notes only the first of those.
        """
        context, size = self._context, len(self._code)
        if target in self._skipped or target in self._kexec or not _is_code(context, target):
            return target
        pad = target - size
        if context.memory.find(pad) is None:
            return target
        stub = moved_code(self._code, pad, self._template, size, size)
        stub = one_nop(stub, context.kernel.facts)
        there = context.memory.read(pad, size)
        if there != stub:
            if there != bytes((NOP1,)) * size:
                return target
            context.poke(pad, stub)
        return pad


def _is_code(context: Context, address: Address) -> bool:
    """is_coretext(): text that stays, of the kernel or of a module."""
    start, end = context.kernel.facts.text
    if start <= address < end:
        return True
    module = context.module
    if module is not None and module.holds(address):
        return not module.in_init(address)
    region = context.memory.find(address)
    return region is not None and "x" in region.protection

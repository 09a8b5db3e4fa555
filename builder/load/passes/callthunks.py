"""callthunks_patch_module_calls: call depth tracking (arch/x86/kernel/callthunks.c, v6.2 to v6.12).

Only where `retbleed=stuff` was given or chosen: each direct call goes to the
accounting stub in the padding before the function called, which is written
there when it is first needed. `.call_sites`: s32, relative to itself.
"""

from __future__ import annotations

from builder.errors import LoadError
from builder.image.boot import CALL_DEPTH
from builder.load.passes.alternatives import NEW, moved_code, one_nop
from builder.load.passes.context import CALL, NOP1, Context, branch, relative

UNTRACKED = ("error_entry", "paranoid_entry", "xen_error_entry", "__switch_to_asm", "ret_from_fork", "__fentry__")
"""skip_addr()"""


def apply(context: Context) -> None:
    if not context.kernel.state.has(CALL_DEPTH):
        return
    sites = []
    calls, alternatives = context.table(".call_sites"), context.table(".altinstructions")
    if calls is not None:
        sites += context.relative_sites(calls)
    if alternatives is not None:
        content = context.content(alternatives)
        for at in range(0, len(content), NEW.size):
            sites.append(alternatives.address + at + relative(content, at))
    if not sites:
        return
    template = context.kernel.address("skl_call_thunk_template")
    tail = context.kernel.address("skl_call_thunk_tail")
    if template is None or tail is None:
        raise LoadError("the kernel tracks the depth of calls, but has no skl_call_thunk_template")
    code = context.memory.read(template, tail - template)
    skipped = {context.kernel.address(name) for name in UNTRACKED}
    for site in sites:
        found = context.memory.read(site, 5)
        target = site + 5 + relative(found)
        if found[0] != CALL or target in skipped or not _is_code(context, site) or not _is_code(context, target):
            continue
        pad = target - len(code)
        stub = one_nop(moved_code(code, pad, template, len(code), len(code)), context.kernel.longest_nop)
        there = context.memory.read(pad, len(code))
        if there != stub:
            if there != bytes((NOP1,)) * len(code):
                context.warn(target, "Invalid padding area")
                continue
            context.poke(pad, stub)
        context.poke(site, branch(CALL, site, pad))


def _is_code(context: Context, address: int) -> bool:
    """is_coretext(): text that stays, of the kernel or of a module."""
    start, end = context.kernel.text
    if start <= address < end:
        return True
    module = context.module
    if module is not None and module.holds(address):
        return not module.in_init(address)
    region = context.memory.find(address)
    return region is not None and "x" in region.protection

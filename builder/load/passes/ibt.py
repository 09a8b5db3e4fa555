"""apply_ibt_endbr, apply_seal_endbr: ENDBR that nothing needs is made useless (arch/x86/kernel/alternative.c, v5.18).

`.ibt_endbr_seal`: s32, relative to itself. gen_endbr_poison (asm/ibt.h) is `osp nopl (%rax)`.
"""

from __future__ import annotations

from builder.load.passes.context import Context

ENDBR64 = bytes.fromhex("f30f1efa")
ENDBR32 = bytes.fromhex("f30f1efb")
POISON = bytes.fromhex("660f1f00")


def apply(context: Context) -> None:
    table = context.table(".ibt_endbr_seal")
    if table is None or not context.kernel.kernel.features.ibt:
        return
    for address in context.relative_sites(table):
        if context.memory.read(address, 4) in (ENDBR64, ENDBR32, POISON):
            context.poke(address, POISON)
        else:
            context.warn(address, "no ENDBR to seal")

"""apply_ibt_endbr, apply_seal_endbr: ENDBR that nothing needs is made useless (arch/x86/kernel/alternative.c, v5.18).

`.ibt_endbr_seal`: s32, relative to itself. What is written is gen_endbr_poison (asm/ibt.h).
"""

from __future__ import annotations

from builder.load.passes.context import Context

ENDBR64 = bytes.fromhex("f30f1efa")
ENDBR32 = bytes.fromhex("f30f1efb")


def apply(context: Context) -> None:
    table = context.table(".ibt_endbr_seal")
    if table is None or not context.kernel.kernel.features.ibt:
        return
    poison = context.kernel.facts.sealed_endbr
    for address in context.relative_sites(table):
        if context.memory.read(address, 4) in (ENDBR64, ENDBR32, poison):
            context.poke(address, poison)
        else:
            context.warn(address, "no ENDBR to seal")

"""apply_paravirt: calls through pv_ops become direct calls or nothing (arch/x86/kernel/{alternative,paravirt}.c, v6.1).

`struct paravirt_patch_site`: the address (8 bytes), u8 type (an index into
pv_ops), u8 length, padded to 16. Gone with v6.8, which has alternatives instead.
"""

from __future__ import annotations

import struct

from builder.binary import Address
from builder.load.passes.context import CALL, Context, branch, fill

_ENTRY = struct.Struct("<QBB6x")


def apply(context: Context) -> None:
    table = context.table(".parainstructions")
    if table is None:
        return
    kernel = context.kernel
    nop, bug = kernel.symbols.address("_paravirt_nop"), kernel.symbols.address("paravirt_BUG")
    operations = kernel.state.pv_ops
    content = context.content(table)
    for at in range(0, len(content), _ENTRY.size):
        address, kind, length = _ENTRY.unpack(content[at : at + _ENTRY.size].ljust(_ENTRY.size, b"\0"))
        target = operations[kind] if kind < len(operations) else Address(0)
        code = b"" if target == nop else branch(CALL, address, target or bug or Address(0))
        context.poke(address, (code + fill(length - len(code), 8))[: max(length, len(code))])

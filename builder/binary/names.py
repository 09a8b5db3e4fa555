"""How long names may be that the kernel keeps in fixed buffers, and the record that holds one of them.

All lengths include the NUL, as in the kernel's sources.
"""

from __future__ import annotations

import struct
from typing import Final

MODULE_NAME: Final = 64 - 8
"""MODULE_NAME_LEN: 64 - sizeof(unsigned long) (include/linux/moduleparam.h, v6.1 to v6.12)"""
SYMBOL_NAME: Final = 512
"""KSYM_NAME_LEN (include/linux/kallsyms.h, v6.1), and what klp_resolve_symbols() reads of a name"""
MODVERSION: Final = struct.Struct(f"<Q{MODULE_NAME}s")
"""struct modversion_info: the CRC, then a symbol's name (include/linux/module.h, v6.1 to v6.12)"""

"""The names that every module of ours brings itself: the symbols of its glue, which are nothing of the patch.

The glue's template is written with them, and whoever looks at the symbols of a module of ours asks `is_glue`.
"""

from __future__ import annotations

import re
from typing import Final

PATCH: Final = "bespoke_patch"
"""the struct klp_patch"""
HOLD: Final = "bespoke_hold"
"""the byte behind the parameter that keeps its patch from being enabled (see the template)"""
HOLD_PARAMETER: Final = "hold"
"""the parameter's name"""
PRE_PATCH: Final = "bespoke_pre_patch"
"""the callback that waits; with `_NUMBER`, the one of an object that has a callback of the patch's own"""
SWAP: Final = "bespoke_swap"
"""what exchanges one word of a running variable"""
PUT: Final = "bespoke_put"
PUT_BACK: Final = "bespoke_put_back"
"""with `_NUMBER`: what puts new initial values into the variables of an object, and what takes them back (`_after`: a
callback of the patch's own before)"""
THIS_MODULE, INIT, EXIT = "__this_module", "init_module", "cleanup_module"
"""what the kernel's loader looks for (scripts/mod/modpost.c writes them for other modules)"""
_OURS = re.compile(
    rf"({PRE_PATCH}|{PUT}|{PUT_BACK}(_after)?)(_\d+)?|{'|'.join((PATCH, HOLD, SWAP, THIS_MODULE, INIT, EXIT))}"
)


def is_glue(name: str) -> bool:
    """Whether a symbol of a module of ours is the glue's."""
    return _OURS.fullmatch(name) is not None

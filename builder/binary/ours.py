"""The names that every module of ours brings itself, and how those of the patch are told from the originals'.

The glue's template is written with its symbols, which are nothing of the patch, and whoever looks at the symbols of a
module of ours asks `is_glue`.
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
LEAD_EXIT: Final = "bespoke_lead_exit"
LEAD_BACK: Final = "bespoke_lead_exit_back"
LED_EXIT: Final = "bespoke_led_exit"
WAS_EXIT: Final = "bespoke_was_exit"
"""with `_NUMBER`: what leads the exit of a patched module to its new version and what leads it back, where it leads to
meanwhile, and where it led before"""
THIS_MODULE, INIT, EXIT = "__this_module", "init_module", "cleanup_module"
"""what the kernel's loader looks for (scripts/mod/modpost.c writes them for other modules)"""
_COPY: Final = ".livepatch"
"""What the symbol of a copy ends with, so that the plain name is the original's alone."""
_OURS = re.compile(
    rf"({PRE_PATCH}|{PUT}|{PUT_BACK}(_after)?|{LEAD_EXIT}|{LEAD_BACK}|{LED_EXIT}|{WAS_EXIT})(_\d+)?|"
    rf"{'|'.join((PATCH, HOLD, SWAP, THIS_MODULE, INIT, EXIT))}"
)

_OF_MARKS = re.compile(
    r"bespoke_(busy|self|marks|file|entry|instance|(mark|fields|functions)_\d+|symbols_\d+_\w+)|__bespoke_on_\w+"
)


def is_of_marks(name: str) -> bool:
    """Whether a variable of a module of ours is what its marks are made with (templates/marks*.c.j2): each module has
    its own, which none on top of it shares."""
    return _OF_MARKS.fullmatch(name) is not None


def is_glue(name: str) -> bool:
    """Whether a symbol of a module of ours is the glue's."""
    return _OURS.fullmatch(name) is not None


def copy_of(name: str) -> str:
    """The symbol that a module of ours has for its copy of what is called `name` in the code that runs.

    While a module has a symbol of an equal name, tools cannot plant a probe by the plain one: the kernel counts those
    of all modules (number_of_same_symbols, kernel/trace/trace_kprobe.c, v6.1).
    """
    return f"{name}{_COPY}"


def plain_name(symbol: str) -> str:
    """The name that a symbol of a module of ours has in the patch's own objects."""
    return symbol.removesuffix(_COPY)

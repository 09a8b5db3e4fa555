"""What the kernel's loader does to a module once it is relocated, one module of Python for each step.

`PASSES` stands in the order in which the kernel does them
(module_finalize in arch/x86/kernel/module.c, then load_module and the module
notifiers). To add a pass: a module with `apply(context)`, whose docstring cites
the kernel's source, and a row here. The loader knows the tables of a row
(builder/load/tables.py); what a kernel must have for it is one of its `Features`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from builder.binary.kernel import Features
from builder.load.passes import (
    alternatives,
    callthunks,
    extable,
    ftrace,
    ibt,
    jump_label,
    orc,
    paravirt,
    retpolines,
    returns,
    smp_locks,
    static_call,
)
from builder.load.passes.context import Context, Table


class Pass(NamedTuple):
    """One row: what the pass is called, the sections it reads, which kernels have it, what it does."""

    name: str
    tables: tuple[str, ...]
    applies: Callable[[Features], bool]
    apply: Callable[[Context], None]


def _always(_: Features) -> bool:
    return True


PASSES: tuple[Pass, ...] = (
    Pass("sort_extable", ("__ex_table",), _always, extable.apply),
    Pass("apply_paravirt", (".parainstructions",), lambda f: f.paravirt_table, paravirt.apply),
    Pass("apply_retpolines", (".retpoline_sites",), lambda f: f.retpoline, retpolines.apply),
    Pass("apply_returns", (".return_sites",), lambda f: f.return_thunk, returns.apply),
    Pass("callthunks", (".call_sites",), lambda f: f.call_thunks and not f.alternative_calls, callthunks.apply),
    Pass("apply_alternatives", (".altinstructions", ".altinstr_replacement"), _always, alternatives.apply),
    Pass("callthunks", (".call_sites",), lambda f: f.call_thunks and f.alternative_calls, callthunks.apply),
    Pass("apply_seal_endbr", (".ibt_endbr_seal",), lambda f: f.ibt, ibt.apply),
    Pass("alternatives_smp", (".smp_locks",), lambda f: f.smp_locks, smp_locks.apply),
    Pass("unwind_module_init", (".orc_unwind_ip", ".orc_unwind"), lambda f: f.orc, orc.apply),
    Pass("ftrace_module_init", ("__mcount_loc",), _always, ftrace.apply),
    Pass("jump_label", ("__jump_table",), _always, jump_label.apply),
    Pass("static_call", (".static_call_sites",), lambda f: f.static_call, static_call.apply),
)
"""In the order in which the kernel does them (v6.1 to v7.3)."""

__all__ = ["PASSES", "Context", "Pass", "Table"]
